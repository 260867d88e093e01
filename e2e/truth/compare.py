#!/usr/bin/env python3
"""Holds what is in the topic against what should be.

The log's objects say what should be there (`expected`), the generator's list says what it planted, the broker's own console
consumer says what is there, the live producer says what it wrote besides, and the job says how it counted. Exits with 0 only
when all of them agree to the last event.
"""

import argparse
import json
import sys
from collections import Counter, defaultdict

import consumed
import expected

# So many of a kind are shown; all are counted.
SHOWN_MAX = 5

KINDS = ("lost", "duplicate", "alien", "torn", "misplaced", "misordered", "mislabelled", "live lost", "live torn", "unreadable")


class Findings:
    """What is wrong, by kind."""

    def __init__(self):
        self.counts = Counter()
        self.examples = defaultdict(list)

    def add(self, kind, text):
        self.counts[kind] += 1
        if len(self.examples[kind]) < SHOWN_MAX:
            self.examples[kind].append(text)


def compare(truth, records, live, runs, findings):
    """Goes through the topic once. `runs` are the ids that the header `weir-run` may have, by record any of them."""
    seen, live_seen = {}, set()
    orders = {}
    last_offset = {}
    for record in records:
        where = "partition %d offset %d" % (record.partition, record.offset)
        if last_offset.get(record.partition, -1) >= record.offset:
            findings.add("unreadable", where + ": printed out of order")
        last_offset[record.partition] = record.offset
        found = consumed.value_of(record)
        event_id, value = found or (None, None)
        if event_id in live:
            _live(record, event_id, value, live, live_seen, findings, where)
            continue
        want = truth.records.get(event_id)
        if want is None:
            findings.add("alien", "%s: %s" % (where, (record.value or b"")[:200]))
            continue
        if event_id in seen:
            findings.add("duplicate", "%s: %s is also at %s" % (where, event_id, seen[event_id]))
            continue
        seen[event_id] = where
        _record(record, event_id, value, want, runs, findings, where)
        _order(record, want, orders, findings, where)
    for event_id, want in truth.records.items():
        if event_id not in seen:
            findings.add("lost", "%s of slice %s, line %s" % (event_id, want.slice, want.line))
    for event_id in live:
        if event_id not in live_seen:
            findings.add("live lost", event_id)
    return len(seen), len(live_seen)


def _live(record, event_id, value, live, live_seen, findings, where):
    if event_id in live_seen or (record.partition, record.offset, record.key, record.timestamp, value) != live[event_id]:
        findings.add("live torn", "%s: %s" % (where, event_id))
    live_seen.add(event_id)


def _record(record, event_id, value, want, runs, findings, where):
    if value != want.value:
        findings.add("torn", "%s: value\n      found    %s\n      expected %s" % (where, value, want.value))
    if record.key != want.key:
        findings.add("torn", "%s: key %r, expected %r" % (where, record.key, want.key))
    if record.timestamp != want.timestamp:
        findings.add("torn", "%s: timestamp %d, expected %d" % (where, record.timestamp, want.timestamp))
    if record.partition != want.partition:
        findings.add("misplaced", "%s: %s belongs into partition %d" % (where, event_id, want.partition))
    headers = {"weir-slice": want.slice, "weir-event-id": event_id, "weir-source": expected.rules.SOURCE}
    if record.headers.get("weir-run") not in runs or any(record.headers.get(name) != text for name, text in headers.items()):
        findings.add("mislabelled", "%s: %s" % (where, record.headers))


def _order(record, want, orders, findings, where):
    """Of one key: by event time, and of one time by where they stand in the source."""
    if want.key is None:
        return
    at = (want.timestamp, want.line)
    if orders.get(want.key, at) > at:
        findings.add("misordered", "%s: key %s goes back from %s to %s" % (where, want.key, orders[want.key], at))
    orders[want.key] = at


def against_job(truth, job):
    """What the job counted in its status, where that is known."""
    accounting = (job.get("status") or {}).get("accounting") or {}
    counts, wrong = truth.counts, []
    quarantined = counts["invalid"] + counts["refused"]
    want = {
        "read": counts["read"], "expanded": 0, "filteredOut": counts["filteredOut"], "outsideWindow": counts["outside"],
        "late": counts["late"], "duplicates": counts["duplicates"], "quarantined": quarantined, "staged": counts["staged"],
    }
    for name, number in want.items():
        if accounting.get(name) != number:
            wrong.append("status.accounting.%s is %s, the log has %s" % (name, accounting.get(name), number))
    if accounting.get("published", 0) + accounting.get("alreadyPresent", 0) != counts["staged"]:
        wrong.append("status.accounting: published and alreadyPresent do not add up to %d" % counts["staged"])
    # Conservation, by the job's own numbers.
    fates = sum(accounting.get(name, 0) for name in ("filteredOut", "invalid", "outsideWindow", "late", "selected"))
    if accounting.get("read", 0) + accounting.get("expanded", 0) != fates:
        wrong.append("status.accounting: read + expanded is not the sum of what became of the rows")
    return wrong


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--objects", required=True, help="folder with the log's objects under their keys")
    arguments.add_argument("--planted", required=True, help="the generator's list")
    arguments.add_argument("--partitions", type=int, default=12)
    arguments.add_argument("--consumed", help="what the console consumer printed; without it only the log is judged")
    arguments.add_argument("--live", help="what the live producer wrote, as JSON lines")
    arguments.add_argument("--run", action="append", default=[], help="<namespace>/<name>/<generation>; may be given again")
    arguments.add_argument("--job", help="the BackfillJob as JSON, whose accounting is judged as well")
    arguments = arguments.parse_args()
    truth = expected.Truth(arguments.partitions).read(arguments.objects)
    with open(arguments.planted, encoding="utf-8") as file:
        disagreements = expected.against_planted(truth, json.load(file))
    findings, found, live_found = Findings(), 0, 0
    if arguments.consumed:
        live = consumed.live(arguments.live) if arguments.live else {}
        found, live_found = compare(truth, consumed.read(arguments.consumed), live, set(arguments.run), findings)
        print("truth: %d events expected, %d found once each; %d of %d live records found" % (
            len(truth.records), found, live_found, len(live)))
        print("truth: " + ", ".join("%s %d" % (kind, findings.counts[kind]) for kind in KINDS))
    if arguments.job:
        with open(arguments.job, encoding="utf-8") as file:
            disagreements += against_job(truth, json.load(file))
    for kind in KINDS:
        for example in findings.examples[kind]:
            print("  %s: %s" % (kind, example))
    for sentence in disagreements:
        print("  disagreement: " + sentence)
    is_right = not disagreements and not sum(findings.counts.values())
    print("truth: " + ("everything agrees" if is_right else "IT DOES NOT AGREE"))
    print(json.dumps({"counts": truth.counts, "bytes": truth.bytes, "found": found, "live": live_found,
                      "findings": findings.counts, "disagreements": len(disagreements), "agrees": is_right}))
    return 0 if is_right else 1


if __name__ == "__main__":
    sys.exit(main())
