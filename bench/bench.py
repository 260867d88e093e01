"""Measures weir's worker beside the script that a careful engineer would write instead, in one run and on the same parts.

    python bench.py --worker PATH [--only small|large] [--rounds N] [--profile | --memory]

The environment names Kafka and S3 (KAFKA_BOOTSTRAP, AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY). CPU time is
that of the worker's process and its children alone, as the kernel counts it; brokers and stores are not in it.
"""

import argparse
import pathlib
import statistics
import sys
import tempfile

import orjson

import stages
from worker import VERBS, Content, Launcher, Run
from world import Data, World, cache_folder

HERE = pathlib.Path(__file__).parent
SIZES = {"small": (400_000, False), "large": (80_000, True)}
ROUNDS = 3
# Events that both writers' records are compared on.
COMPARED = 20_000
# Events for each CPU-second, as a multiple of the script's.
AIMS = {"extract": 2.2, "assemble": 5.0, "publish": 1.8, "verify": 5.0, "whole": 0.7}
# Of one thread's events for each CPU-second, what two give at least.
AIM_TWO_THREADS = 0.9
AIM_PEAK_BYTES = 512 * 1024 * 1024
MIB = 1024 * 1024


def say(text=""):
    print(text, flush=True)


def baseline(world, data, cpus, topic):
    """One run of the script."""
    command = [sys.executable, str(HERE / "baseline.py"), world.bootstrap, topic, *map(str, data.paths)]
    with tempfile.NamedTemporaryFile() as out:
        code, usage = world.launcher.measure(command, cpus, out.name)
        if code != 0:
            sys.exit(f"the script ended with {code}: {out.read().decode()}")
    return usage


def compare(world, binary, cache, name, large):
    """That both write the same records into the same partitions."""
    data = Data(cache, name, COMPARED, large)
    world.upload(data)
    topic, script, weir = world.topic(), Content(), Content()
    baseline(world, data, [0], topic)
    run = Run(binary, world, data, [0], f"compare-{name}")
    run.all()
    world.read(topic, data.count, script.see)
    world.read(run.topic, data.count, weir.see)
    if script.records != weir.records:
        wrong = sum(script.records.get(key) != record for key, record in weir.records.items())
        sys.exit(f"{wrong} of {data.count} records differ from the script's")
    say(f"{name}: {data.count:,} records of weir and of the script agree in value, key and partition")
    for used in (topic, run.topic):
        world.drop_topic(used)


class Results:
    """Figures of one size of events."""

    def __init__(self, data):
        self.data = data
        self.baseline = []
        self.runs = []
        self.two_threads = []
        self.shares = {}
        self.stored = {}
        self.topic_bytes = {}

    def rate(self, usages):
        """Thousands of events for each CPU-second, the median."""
        return statistics.median(self.data.count / 1000 / usage.cpu_seconds for usage in usages)

    def usages(self, verb, runs):
        return [run.total() if verb == "whole" else run.usage[verb] for run in runs]

    def ratio(self, verb):
        """The median of the rounds' ratios: what disturbs a round disturbs both sides of it."""
        pairs = zip(self.usages(verb, self.runs), self.baseline)
        return statistics.median(script.cpu_seconds / weir.cpu_seconds for weir, script in pairs)

    def json(self):
        verbs = {}
        for verb in [*VERBS, "whole"]:
            usages = self.usages(verb, self.runs)
            verbs[verb] = {
                "thousandEventsPerCpuSecond": self.rate(usages),
                "rawMegabytesPerCpuSecond": self.rate(usages) * self.data.raw_bytes / self.data.count / 1000,
                "ratio": self.ratio(verb),
                "wallSeconds": statistics.median(usage.wall_seconds for usage in usages),
                "peakBytes": max(usage.peak_bytes for usage in usages),
                "stages": self.shares.get(verb, {}),
            }
        return {
            "events": self.data.count,
            "rawBytes": self.data.raw_bytes,
            "gzipBytes": self.data.gzip_bytes,
            "storedBytes": self.stored,
            "topicBytes": self.topic_bytes,
            "baseline": {"thousandEventsPerCpuSecond": self.rate(self.baseline), "peakBytes": max(u.peak_bytes for u in self.baseline)},
            "verbs": verbs,
            "twoThreads": {verb: self.rate(self.usages(verb, self.two_threads)) for verb in [*VERBS, "whole"]} if self.two_threads else {},
        }


def rounds(world, binary, data, count):
    """The script and weir in turns on one CPU, then weir on two."""
    results = Results(data)
    for number in range(count):
        topic = world.topic()
        results.baseline.append(baseline(world, data, [0], topic))
        run = Run(binary, world, data, [0], f"{data.name}-{number}")
        run.all()
        results.runs.append(run)
        if number == 0:
            results.stored = run.stored()
            results.topic_bytes = {
                "script": world.read(topic, data.count, lambda _: None),
                "weir": world.read(run.topic, data.count, lambda _: None),
            }
        both = Run(binary, world, data, [0, 1], f"{data.name}-{number}-both")
        both.all()
        results.two_threads.append(both)
        for used in (topic, run.topic, both.topic):
            world.drop_topic(used)
        say(f"{data.name}, round {number + 1} of {count}: script {results.baseline[-1].cpu_seconds:.2f} CPU-s, weir {run.total().cpu_seconds:.2f}")
    return results


def profile(world, binary, data, results, folder):
    """Another run, under `perf`, which is not counted."""
    run = Run(binary, world, data, [0], f"{data.name}-profile")
    for verb in VERBS:
        run.verb(verb, lambda unit: stages.recording(folder / f"{data.name}-{unit}.perf"))
        # The first unit of a verb stands for all of them.
        first = next(iter(sorted(folder.glob(f"{data.name}-{verb}*.perf"))))
        found = stages.functions(first)
        results.shares[verb] = stages.stages(found)
        (folder / f"{data.name}-{verb}.txt").write_text("\n".join(f"{share:6.2f} % {name}" for share, name in found))
    world.drop_topic(run.topic)


def memory(world, binary, data):
    """All events in one object and one slice, many times what the worker may sort in memory. Returns what went over."""
    world.upload_whole(data)
    run = Run(binary, world, data, [0, 1], f"{data.name}-memory", tight=True)
    run.all()
    world.read(run.topic, data.count, lambda _: None)
    world.drop_topic(run.topic)
    peaks = ", ".join(f"{verb} {run.usage[verb].peak_bytes / MIB:.0f}" for verb in VERBS)
    say(f"\nOne object and one slice of {data.raw_bytes / MIB:.0f} MiB with {run.memory_bytes / MIB:.0f} MiB of memory; peaks in MiB: {peaks}")
    over = [verb for verb in VERBS if run.usage[verb].peak_bytes > AIM_PEAK_BYTES]
    return [f"{data.name}: {verb} took {run.usage[verb].peak_bytes / MIB:.0f} MiB for one large slice" for verb in over]


def report(results):
    """For people, as Markdown."""
    told, data = results.json(), results.data
    per = lambda size: f"{size / data.count:,.0f}"
    say(f"\n### {data.count:,} {data.name} events, {data.raw_bytes / data.count:,.0f} bytes of JSON each ({data.gzip_bytes / data.count:,.0f} compressed)\n")
    say(f"The script: {told['baseline']['thousandEventsPerCpuSecond']:.1f} thousand events for each CPU-second, peak {told['baseline']['peakBytes'] / MIB:.0f} MiB.\n")
    say("| verb | thousand events / CPU-s | raw MB / CPU-s | times the script | aim | two threads | peak MiB | wall s |")
    say("|---|---:|---:|---:|---:|---:|---:|---:|")
    for verb, found in told["verbs"].items():
        rate = found["thousandEventsPerCpuSecond"]
        both = f"{told['twoThreads'][verb] / rate:.2f}" if told["twoThreads"] else ""
        aim = f"{AIMS[verb]:.1f}" if verb in AIMS else ""
        say(
            f"| {verb} | {rate:,.1f} | {found['rawMegabytesPerCpuSecond']:,.0f} | {found['ratio']:.2f} | {aim} | {both} "
            f"| {found['peakBytes'] / MIB:.0f} | {found['wallSeconds']:.1f} |"
        )
    stored, topic = told["storedBytes"], told["topicBytes"]
    say("\nBytes for each event: " + "; ".join([
        f"extract reads {per(data.gzip_bytes)} and writes {per(stored['extract'])}",
        f"assemble reads {per(stored['extract'])} and writes {per(stored['assemble'])}",
        f"publish reads {per(stored['assemble'])} and writes {per(topic['weir'])} (the script {per(topic['script'])})",
        f"verify reads {per(topic['weir'])}.",
    ]))  # fmt: skip
    for verb, shares in results.shares.items():
        if verb != "plan":
            say(f"\n{verb}: " + ", ".join(f"{stage} {share:.0f} %" for stage, share in shares.items() if share >= 1))


def missed(results):
    """The aims that were not met."""
    told = results.json()
    for verb, aim in AIMS.items():
        if told["verbs"][verb]["ratio"] < aim:
            yield f"{results.data.name}: {verb} is {told['verbs'][verb]['ratio']:.2f} times the script, not {aim}"
    whole = told["verbs"]["whole"]["thousandEventsPerCpuSecond"]
    if told["twoThreads"] and told["twoThreads"]["whole"] < AIM_TWO_THREADS * whole:
        yield f"{results.data.name}: two threads give {told['twoThreads']['whole'] / whole:.2f} of one thread's events for each CPU-second"
    for runs in (results.runs, results.two_threads):
        peak = max((run.total().peak_bytes for run in runs), default=0)
        if peak > AIM_PEAK_BYTES:
            yield f"{results.data.name}: a worker took {peak / MIB:.0f} MiB"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worker", type=pathlib.Path, required=True, help="the binary to measure: a release build, for figures")
    parser.add_argument("--only", choices=SIZES, help="one size of events")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--profile", action="store_true", help="also say what each verb spends its time on (needs perf)")
    parser.add_argument("--memory", action="store_true", help="only measure the memory that one large object and slice take")
    parser.add_argument("--events", type=int, help="fewer events, to try something out")
    options = parser.parse_args()
    if options.profile and not stages.is_there():
        sys.exit("--profile needs perf: apt-get install linux-perf")
    cache, world, all_results, unmet = cache_folder(), World(Launcher()), [], []
    try:
        for name, (count, large) in SIZES.items():
            if options.only not in (None, name):
                continue
            if options.memory:
                unmet += memory(world, options.worker, Data(cache, name, options.events or count, large))
            else:
                compare(world, options.worker, cache, name, large)
                data = Data(cache, name, options.events or count, large)
                world.upload(data)
                results = rounds(world, options.worker, data, options.rounds)
                if options.profile:
                    profile(world, options.worker, data, results, cache)
                all_results.append(results)
    finally:
        world.remove()
    for results in all_results:
        report(results)
    if all_results:
        (cache / "results.json").write_bytes(orjson.dumps({r.data.name: r.json() for r in all_results}, option=orjson.OPT_INDENT_2))
    unmet += [line for results in all_results for line in missed(results)]
    say("\nEvery aim is met." if not unmet else "\nAims that are not met:\n" + "\n".join(f"- {line}" for line in unmet))


if __name__ == "__main__":
    main()
