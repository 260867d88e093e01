"""What the broker's own console consumer printed: one record a line, its parts set apart by tabs."""

import json
from collections import namedtuple

import rules

# The properties that the consumer must be given, beside `key.separator` and `null.literal`.
PROPERTIES = ("print.timestamp", "print.partition", "print.offset", "print.headers", "print.key", "print.value")
NULL = b"<null>"

Record = namedtuple("Record", "partition offset timestamp headers key value")


class Unreadable(Exception):
    """A line that no record has."""


def parse(line):
    """The record of a line."""
    parts = line.rstrip(b"\n").split(b"\t", 5)
    if len(parts) != 6:
        raise Unreadable("%d parts: %r" % (len(parts), line[:200]))
    named = {}
    for part in parts[:3]:
        name, _, number = part.partition(b":")
        named[name] = number
    try:
        timestamp, partition, offset = int(named[b"CreateTime"]), int(named[b"Partition"]), int(named[b"Offset"])
    except (KeyError, ValueError) as error:
        raise Unreadable("%r: %r" % (error, line[:200])) from error
    headers = {}
    if parts[3] != b"NO_HEADERS":
        for header in parts[3].split(b","):
            name, _, text = header.partition(b":")
            headers[name.decode()] = text.decode()
    key = None if parts[4] == NULL else parts[4].decode()
    return Record(partition, offset, timestamp, headers, key, None if parts[5] == NULL else parts[5])


def read(path):
    """Every record, in the order in which it was printed: within a partition that of the offsets."""
    with open(path, "rb") as file:
        for line in file:
            # The tools warn on the same stream, in lines that no record can begin like.
            if line.startswith(b"CreateTime:") or b"\t" in line:
                yield parse(line)


def value_of(record):
    """(event id, canonical value), or None where the value is no JSON object with an id."""
    try:
        value = rules.parse_line(record.value or b"")
    except rules.Invalid:
        return None
    event_id = value.get("event_id")
    return (event_id, rules.canonical(value)) if isinstance(event_id, str) else None


def live(path):
    """Records that the live producer was told are there: by id (partition, offset, key, timestamp, canonical value)."""
    records = {}
    with open(path, encoding="utf-8") as file:
        for line in file:
            said = json.loads(line)
            value = rules.parse_line(said["value"].encode())
            records[value["event_id"]] = (
                said["partition"], said["offset"], said["key"], said["timestamp"], rules.canonical(value))
    return records
