"""That the truth finds every kind of harm: a small log, a faithful publisher, and one lie at a time."""

import contextlib
import gzip
import io
import json
import os
import sys
import tempfile
import unittest
from unittest import mock

sys.path.insert(0, os.path.dirname(__file__))

import compare
import expected
import rules

RUN = "shop/gap/1"


def line(number, time="2026-11-03T06:00:00.000Z", user=7, **more):
    """A log line."""
    row = {"ts": time, "event_key": "pv_%016x" % number, "method": "GET", "path": "/v2/products/1", "status": 200,
           "user": {"id": user}, "app": "8.2.1", "attempt": 1, "product_id": 9007199254740993, "price": 12.5, **more}
    return json.dumps({name: value for name, value in row.items() if value is not None}).encode()


LOG = {
    "v2/dt=2026-11-03/hr=04/part-0000.jsonl.gz": [line(99)],
    "v2/dt=2026-11-03/hr=06/part-0000.jsonl.gz": [
        line(1), line(2, "2026-11-03T06:20:00.001Z"), line(3, user=None), b"", line(4)[:-9], b"[]", line(5, status=503),
        line(6, "2026-11-03T07:05:00.000Z"), line(7, "2026-11-03T07:04:59.999Z"), line(8, "2026-11-03T05:59:59.999Z"),
        line(9, "2026-11-03T06:00:00.000001Z"),
    ],
    "v2/dt=2026-11-03/hr=06/part-0001.jsonl.gz": [line(1, attempt=2), line(1, attempt=3)],
    "v2/dt=2026-11-03/hr=09/part-0000.jsonl.gz": [line(10, "2026-11-03T06:59:59.999Z"), line(11, "2026-11-03T07:00:00.000Z")],
}
PLANTED = {
    "recoverable": 5, "duplicates": 2, "late": 2, "invalid": {"CutOff": 1, "NotAnObject": 1}, "refused": {"TimeFinerThanMillis": 1},
    "filteredOut": 1, "outsideWindow": 1, "lines": 15, "unread": 1, "idSum": 1 + 2 + 3 + 7 + 11,
    "bySlice": {"20261103T060000Z": {"product_view": 2}, "20261103T061500Z": {"product_view": 1},
                "20261103T070000Z": {"product_view": 2}},
}


def printed(records):
    """What the console consumer would print."""
    lines = []
    for partition, offset, timestamp, headers, key, value in records:
        labels = ",".join("%s:%s" % pair for pair in headers.items()) or "NO_HEADERS"
        lines.append("CreateTime:%d\tPartition:%d\tOffset:%d\t%s\t%s\t%s\n" % (
            timestamp, partition, offset, labels, "<null>" if key is None else key, value))
    return "".join(lines)


class Scene(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name
        for key, lines in LOG.items():
            path = os.path.join(self.folder, "log", key)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with gzip.open(path, "wb") as file:
                file.write(b"\n".join(lines))
        self.records, offsets = [], {}
        truth = expected.Truth(12).read(self.path("log"))
        for event_id, want in sorted(truth.records.items(), key=lambda item: (item[1].timestamp, item[1].line)):
            # Written apart from `canonical`: as a publisher might.
            value = {"event_id": event_id, "event_type": "product_view", "event_time": want.timestamp,
                     "user_id": None if want.key is None else int(want.key), "app_version": "8.2.1", "attempt": 1,
                     "product_id": 9007199254740993}
            text = json.dumps({name: inner for name, inner in value.items() if inner is not None})[:-1] + ', "price": 12.50}'
            headers = {"weir-run": RUN, "weir-slice": want.slice, "weir-event-id": event_id, "weir-source": "api_logs"}
            offset = offsets.get(want.partition, 0)
            offsets[want.partition] = offset + 2
            self.records.append([want.partition, offset, want.timestamp, headers, want.key, text])

    def path(self, name):
        return os.path.join(self.folder, name)

    def agrees(self, planted=PLANTED, job=None, live=()):
        """The exit code's meaning, and what was said."""
        arguments = ["compare", "--objects", self.path("log"), "--planted", self.path("planted"), "--consumed", self.path("out"),
                     "--run", RUN, "--live", self.path("live")]
        for name, text in (("planted", json.dumps(planted)), ("out", printed(self.records)), ("live", "\n".join(live))):
            with open(self.path(name), "w", encoding="utf-8") as file:
                file.write(text)
        if job is not None:
            with open(self.path("job"), "w", encoding="utf-8") as file:
                json.dump(job, file)
            arguments += ["--job", self.path("job")]
        said = io.StringIO()
        with mock.patch.object(sys, "argv", arguments), contextlib.redirect_stdout(said):
            code = compare.main()
        return code == 0, said.getvalue()

    def finds(self, kind):
        agrees, said = self.agrees()
        self.assertFalse(agrees, said)
        self.assertEqual(json.loads(said.splitlines()[-1])["findings"].get(kind), 1, said)


class Comparison(Scene):
    def test_a_faithful_topic_agrees(self):
        agrees, said = self.agrees()
        self.assertTrue(agrees, said)

    def test_a_lost_event(self):
        del self.records[2]
        self.finds("lost")

    def test_an_event_twice(self):
        twice = list(self.records[-1])
        twice[1] += 1
        self.records.append(twice)
        self.finds("duplicate")

    def test_an_alien(self):
        self.records.append([3, 900, 1, {}, None, '{"event_id": "pv_0000000000000063"}'])
        self.finds("alien")

    def test_a_digit(self):
        self.records[0][5] = self.records[0][5].replace("9007199254740993", "9007199254740992")
        self.finds("torn")

    def test_a_field_as_null(self):
        self.records[0][5] = self.records[0][5][:-1] + ', "score": null}'
        self.finds("torn")

    def test_the_other_copy(self):
        self.records[0][5] = self.records[0][5].replace('"attempt": 1', '"attempt": 2')
        self.finds("torn")

    def test_a_key(self):
        self.records[0][4] = "8"
        self.finds("torn")

    def test_a_timestamp(self):
        self.records[0][2] += 1
        self.finds("torn")

    def test_a_partition(self):
        self.records[0][0] = (self.records[0][0] + 1) % 12
        self.records[0][1] = 900
        self.finds("misplaced")

    def test_the_order_of_a_key(self):
        mine = [record for record in self.records if record[4] == "7"]
        mine[0][1], mine[1][1] = mine[1][1], mine[0][1]
        self.records.sort(key=lambda record: record[1])
        self.finds("misordered")

    def test_another_run(self):
        self.records[0][3]["weir-run"] = "shop/other/1"
        self.finds("mislabelled")

    def test_the_live_producers_records(self):
        value = json.dumps({"event_id": "live-1", "n": 1})
        said = json.dumps({"partition": 0, "offset": 700, "key": "k", "timestamp": 5, "value": value})
        agrees, text = self.agrees(live=[said])
        self.assertFalse(agrees, text)
        self.records.append([0, 700, 5, {}, "k", value])
        agrees, text = self.agrees(live=[said])
        self.assertTrue(agrees, text)

    def test_the_generators_list(self):
        for name in ("recoverable", "duplicates", "late", "filteredOut", "outsideWindow", "idSum", "lines"):
            agrees, said = self.agrees(planted={**PLANTED, name: PLANTED[name] + 1})
            self.assertFalse(agrees, said)

    def test_the_jobs_accounting(self):
        accounting = {"read": 14, "expanded": 0, "filteredOut": 1, "invalid": 3, "outsideWindow": 1, "late": 2, "selected": 7,
                      "duplicates": 2, "quarantined": 3, "staged": 5, "published": 5, "alreadyPresent": 0}
        agrees, said = self.agrees(job={"status": {"accounting": accounting}})
        self.assertTrue(agrees, said)
        for name in ("read", "late", "duplicates", "quarantined", "staged", "published", "invalid"):
            agrees, said = self.agrees(job={"status": {"accounting": {**accounting, name: accounting[name] + 1}}})
            self.assertFalse(agrees, name + said)


class Rules(unittest.TestCase):
    def test_the_java_clients_hash(self):
        # From the Java client's own tests, as signed 32-bit numbers.
        for text, signed in (("21", -973932308), ("foobar", -790332482), ("a-little-bit-long-string", -985981536),
                             ("a-little-bit-longer-string", -1486304829), ("abc", 479470107),
                             ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971)):
            self.assertEqual(rules.murmur2(text.encode()), signed % 2**32, text)

    def test_numbers_are_equal_to_the_last_digit_or_not_at_all(self):
        def text(number):
            return rules.canonical(rules.parse_line(b'{"n":%s}' % number))

        for same in ((b"12", b"12.0", b"1.2e1", b"12.000"), (b"0", b"-0", b"0.00"), (b"0.1", b"1e-1"), (b"-5.50", b"-5.5")):
            self.assertEqual({text(number) for number in same}, {text(same[0])})
        long = b"9" * 40
        self.assertNotEqual(text(long), text(long[:-1] + b"8"))
        self.assertEqual(rules.canonical(0.1), rules.canonical(rules.NumberText("0.1")))

    def test_values_that_do_not_fit_their_type(self):
        good = {"ts": "2026-11-03T06:00:00Z", "event_key": "pv_1", "path": "/v2/products/1", "status": 200}
        self.assertIsNotNone(rules.select(good))
        for bad in ({"status": "200"}, {"status": True}, {"user": {"id": rules.NumberText("5.7")}}, {"user": {"id": 2**63}},
                    {"price": rules.NumberText("1.234")}, {"score": 2**53 + 1}, {"qty": "2"}, {"tags": "a"}, {"event_key": None},
                    {"ts": "2026-11-31T06:00:00Z"}, {"ts": "2026-11-03T06:00:00"}, {"ts": "2026-11-03T06:00:00.1234567Z"}):
            with self.assertRaises(rules.Invalid, msg=str(bad)):
                rules.select({**good, **bad})
        for fine in ({"status": rules.NumberText("2e2")}, {"user": None}, {"score": 2**53}, {"price": rules.NumberText("1.2300")}):
            self.assertIsNotNone(rules.select({**good, **fine}))


if __name__ == "__main__":
    unittest.main()
