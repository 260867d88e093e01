"""What should be in the topic, from the log's objects alone."""

import gzip
import os
import re
from collections import Counter, namedtuple
from concurrent.futures import ProcessPoolExecutor
from datetime import datetime, timezone

import rules

# `line` is (object's ordinal, number of the line): where the winning copy stands.
Expected = namedtuple("Expected", "partition key timestamp value slice line")

# An object is read by one of them.
PROCESSES = 2

HOURLY = re.compile(r"v2/dt=(\d{4}-\d\d-\d\d)/hr=(\d\d)/")
# Prefixes that overlap [start - skew, end + lateness).
FIRST_HOUR_US = (rules.WINDOW_US[0] - rules.SKEW_US) // rules.HOUR_US * rules.HOUR_US
END_US = rules.WINDOW_US[1] + rules.LATENESS_US


def objects(folder):
    """(key, start of its hour) of every object that the job calls for, in the order of a listing."""
    keys = []
    for path, _, names in os.walk(folder):
        keys += [os.path.relpath(os.path.join(path, name), folder).replace(os.sep, "/") for name in names]
    found = []
    # S3 lists by bytes.
    for key in sorted(keys, key=str.encode):
        hourly = HOURLY.match(key)
        if not hourly:
            continue
        start = datetime.strptime(hourly[1] + hourly[2], "%Y-%m-%d%H").replace(tzinfo=timezone.utc)
        hour_us = (start - rules.EPOCH) // rules.MICROSECOND
        if FIRST_HOUR_US <= hour_us < END_US:
            found.append((key, hour_us))
    return found


def lines(path):
    """(number, line) of the lines that are rows, without their ends."""
    with gzip.open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            if number == 1:
                line = line.removeprefix(b"\xef\xbb\xbf")
            line = line.removesuffix(b"\n")
            if line.strip():
                yield number, line


def rows(path, ordinal, hour_us, partitions):
    """An object's rows: how many met each fate that a row meets by itself, and (id, type, record or None) of the selected."""
    counts, selected, partition_of = Counter(), [], {}
    for number, line in lines(path):
        counts["read"] += 1
        try:
            event = rules.select(rules.parse_line(line))
        except rules.Invalid:
            counts["invalid"] += 1
            continue
        fate = "filteredOut" if event is None else rules.placement(event, hour_us)
        counts[fate] += 1
        if fate == "selected":
            record = _record(event, (ordinal, number), partitions, partition_of)
            selected.append((event["event_id"], event["event_type"], record))
    return counts, selected


def _record(event, at, partitions, partition_of):
    """The record of an event; None where no record can carry it."""
    value = rules.record_value(event)
    # A field's name and a few signs around a text that is as long as the whole.
    if value is None or len(event["referrer"] or "") > rules.MAX_MESSAGE_BYTES:
        return None
    key = None if event["user_id"] is None else str(event["user_id"])
    placed_by = key or event["event_id"]
    if placed_by not in partition_of:
        partition_of[placed_by] = rules.partition(placed_by.encode(), partitions)
    slice_id = rules.slice_of(event["event_time"])
    return Expected(partition_of[placed_by], key, value["event_time"], rules.canonical(value), slice_id, at)


class Truth:
    """Expected records by event id, and how many rows met which fate."""

    def __init__(self, partitions):
        self.partitions = partitions
        self.records = {}
        self.counts = Counter()
        self.by_slice = Counter()
        self.bytes = 0

    def read(self, folder):
        """Reads every object, in order: the first copy of an id is the one that stays."""
        found = objects(folder)
        paths = [os.path.join(folder, key) for key, _ in found]
        self.bytes = sum(map(os.path.getsize, paths))
        hours = [hour_us for _, hour_us in found]
        with ProcessPoolExecutor(PROCESSES) as pool:
            for counts, selected in pool.map(rows, paths, range(len(paths)), hours, [self.partitions] * len(paths)):
                self.counts += counts
                for event_id, event_type, record in selected:
                    self._selected(event_id, event_type, record)
        return self

    def _selected(self, event_id, event_type, record):
        if event_id in self.records:
            self.counts["duplicates"] += 1
        elif record is None:
            self.counts["refused"] += 1
        else:
            self.by_slice[record.slice, event_type] += 1
            self.counts["staged"] += 1
            self.records[event_id] = record


def against_planted(truth, planted):
    """What the generator says it planted and what was derived from its log: each difference is a sentence."""
    counts, wrong = truth.counts, []

    def same(what, derived, said):
        if derived != said:
            wrong.append("%s: the generator planted %s, the log has %s" % (what, said, derived))

    same("recoverable events", counts["staged"], planted["recoverable"])
    same("duplicates", counts["duplicates"], planted["duplicates"])
    same("late rows", counts["late"], planted["late"])
    same("invalid rows", counts["invalid"], sum(planted["invalid"].values()))
    same("events that no record can carry", counts["refused"], sum(planted["refused"].values()))
    same("rows filtered out", counts["filteredOut"], planted["filteredOut"])
    same("rows outside the window", counts["outside"], planted["outsideWindow"])
    same("rows", counts["read"], planted["lines"] - planted["unread"])
    same("sum of ids", sum(int(event_id[3:], 16) for event_id in truth.records) % 2**64, planted["idSum"])
    by_slice = {(s, t): n for s, types in planted["bySlice"].items() for t, n in types.items()}
    same("events by slice and type", dict(truth.by_slice), by_slice)
    return wrong
