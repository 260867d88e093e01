"""One run of weir's worker alone, verb by verb, each a process of its own whose CPU time and memory are measured."""

import dataclasses
import hashlib
import os
import pathlib
import subprocess
import sys
import tempfile

import orjson

from world import Data, World

MEMORY_BYTES = 512 * 1024 * 1024
# A quarter of it is for sorting: less than a tenth of what the events' records have.
TIGHT_MEMORY_BYTES = 128 * 1024 * 1024
TIGHT_SLICE = "4h"
VERBS = ["plan", "extract", "assemble", "publish", "verify"]
# From 2026-01-01T00:00:00Z on: longer than the events last, in slices of 60 to 70 MB of JSON. A run of billions of events has
# larger ones, since it has at most 1,000 of them; smaller ones cost more, since each is a transaction for each bucket.
WINDOW = {"start": "2026-01-01T00:00:00Z", "end": "2026-01-01T04:00:00Z"}
SLICE = {"small": "30m", "large": "5m"}
COLUMNS = (
    "event_id string, type string, ts bigint, user struct<id: string, email: string, country: string, session: string>, "
    "`order` struct<id: string, amount: double, currency: string, items: array<struct<sku: string, qty: bigint, price: double>>>, "
    "ctx struct<ip: string, ua: string, ref: string, trace: string>, tags array<string>, schema_version bigint, note string"
)
# What baseline.py's `convert` does.
SELECT = """
SELECT encode(sha256(event_id || '|' || type || '|' || CAST(ts AS VARCHAR)), 'hex') AS event_id, event_id AS original_id,
    upper(type) AS type, ts, to_timestamp_millis(ts) AS event_time, user.id AS user_id, lower(user.email) AS email,
    user.country AS country, "order"['id'] AS order_id, "order"['amount'] AS amount, "order"['currency'] AS currency,
    "order"['items'] AS items, ctx.ip AS ip, ctx.ua AS ua, ctx.ref AS ref, ctx.trace AS trace, tags,
    CASE WHEN schema_version = 1 THEN 'legacy' ELSE 'v2' END AS version, note
FROM shop WHERE ts >= 1767225600000 AND type <> 'unknown'
"""
VALUE = [
    "event_id", "original_id", "type", "ts", "user_id", "email", "country", "order_id", "amount", "currency", "items", "ip", "ua",
    "ref", "trace", "tags", "version", "note",
]  # fmt: skip
NO_UNIT = "the plan has no unit"
# Units of one verb: a run of this size has a handful.
UNITS_MAX = 100


@dataclasses.dataclass
class Usage:
    """What processes took."""

    cpu_seconds: float = 0.0
    wall_seconds: float = 0.0
    peak_bytes: int = 0

    def add(self, other):
        self.cpu_seconds += other.cpu_seconds
        self.wall_seconds += other.wall_seconds
        self.peak_bytes = max(self.peak_bytes, other.peak_bytes)


class Launcher:
    """Starts what is measured."""

    def __init__(self):
        script = pathlib.Path(__file__).parent / "launcher.py"
        self.process = subprocess.Popen([sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def measure(self, command, cpus, output, env=None):
        """Runs a command on some CPUs to its end. Returns its exit code and what it took, by the kernel's own account."""
        pinned = ["taskset", "--cpu-list", ",".join(map(str, cpus)), *command]
        task = {"command": pinned, "env": env or dict(os.environ), "output": str(output)}
        self.process.stdin.write(orjson.dumps(task) + b"\n")
        self.process.stdin.flush()
        told = orjson.loads(self.process.stdout.readline())
        return told["code"], Usage(told["cpuSeconds"], told["wallSeconds"], told["peakBytes"])


class Run:
    """One generation of one job."""

    def __init__(self, binary: pathlib.Path, world: World, data: Data, cpus, name, tight=False):
        """`tight`: one object, one slice, and a memory that holds a small part of it."""
        self.binary, self.world, self.data, self.cpus, self.name = binary, world, data, cpus, name
        self.memory_bytes = TIGHT_MEMORY_BYTES if tight else MEMORY_BYTES
        self.source = f"source/{data.name}-whole/" if tight else f"source/{data.name}/"
        self.topic = world.topic()
        self.root = f"runs/{world.name}/{name}/g1/"
        self.usage = {verb: Usage() for verb in VERBS}
        self.run = {"namespace": world.name, "name": name, "generation": 1}
        world.put(self.root + "run.json", orjson.dumps(self._spec(TIGHT_SLICE if tight else SLICE[data.name])))

    def _spec(self, slice_length):
        s3 = {"bucket": self.world.name, "prefix": self.source, "format": "JsonLines", "compression": "Gzip"}
        kafka = {
            "clusterRef": {"name": "kafka"}, "topic": self.topic, "mode": "InPlace", "partitioner": "Murmur2",
            "timestamps": "EventTime", "ordering": "PerKey", "value": {"format": "Json", "columns": VALUE},
        }  # fmt: skip
        columns = {"eventId": "event_id", "eventTime": "event_time", "eventType": "type", "key": "original_id"}
        return {
            "format": 1, "run": self.run, "class": "bench", "store": self._store(), "sourceStore": self.world.service(),
            "window": {**WINDOW, "slice": slice_length},
            "sources": [{"name": "shop", "s3": s3, "columns": COLUMNS, "arrival": "None", "select": SELECT}],
            "reconstruct": {"columns": columns}, "sinks": [{"name": "events", "kafka": kafka}],
        }  # fmt: skip

    def _store(self):
        return {"bucket": self.world.name, "prefix": "runs", "s3": self.world.service()}

    def verb(self, verb, wrap=lambda unit: ()):
        """Does all units of a verb. `wrap` gives the command that runs a unit's, if there is to be one."""
        if verb == "plan":
            self._unit(verb, "plan", wrap)
            return
        for number in range(UNITS_MAX):
            unit = f"{verb}-{number:04d}" + ("-0" if verb == "publish" else "")
            if not self._unit(verb, unit, wrap):
                return

    def _unit(self, verb, unit, wrap):
        context = {
            "run": self.run, "store": self._store(), "kafka": {"kafka": {"bootstrapServers": [self.world.bootstrap]}},
            "unit": unit, "attempt": 1, "parallelism": 1, "workerImage": "bench",
        }  # fmt: skip
        with tempfile.TemporaryDirectory(prefix="weir-bench-") as folder:
            folder = pathlib.Path(folder)
            (folder / "aws-access-key-id").write_text(self.world.key[0])
            (folder / "aws-secret-access-key").write_text(self.world.key[1])
            ended = folder / "ended"
            env = {
                "PATH": os.environ["PATH"],
                "WEIR_CONTEXT": orjson.dumps(context).decode(),
                "WEIR_CREDENTIALS_DIR": str(folder),
                "WEIR_SCRATCH_DIR": str(folder / "scratch"),
                "WEIR_MEMORY_BYTES": str(self.memory_bytes),
                "WEIR_TERMINATION_LOG": str(ended),
                "RUST_LOG": "warn",
            }
            code, usage = self.world.launcher.measure([*wrap(unit), str(self.binary), verb], self.cpus, folder / "log", env)
            if code == 0:
                self.usage[verb].add(usage)
                return True
            message = ended.read_text() if ended.exists() else (folder / "log").read_text()[-4000:]
            if NO_UNIT in message:
                return False
            raise RuntimeError(f"{unit} ended with {code}: {message}")

    def all(self):
        """All verbs."""
        for verb in VERBS:
            self.verb(verb)

    def total(self):
        """What all verbs took."""
        total = Usage()
        for usage in self.usage.values():
            total.add(usage)
        return total

    def stored(self):
        """Bytes of what `extract` and `assemble` left."""
        return {verb: self.world.stored(f"{self.root}data/{folder}/") for verb, folder in [("extract", "extracted"), ("assemble", "staged")]}

    def estimates(self):
        """What the plan forecast."""
        return orjson.loads(self.world.get(self.root + "plan.json"))["estimates"]


class Content:
    """A topic's records by event id, reduced to what two writers must agree on."""

    def __init__(self):
        self.records = {}

    def see(self, message):
        value = orjson.loads(message.value())
        canonical = orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
        self.records[value["event_id"]] = hashlib.sha256(canonical).digest() + bytes(message.key()) + bytes([message.partition()])
