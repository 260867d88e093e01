"""What a verb spends its CPU time on: samples of `perf`, sorted by the function that they hit."""

import re
import shutil
import subprocess

SAMPLES_PER_SECOND = 999
# The first that fits counts. Names are those of functions and of the crates that they come from; the last column of a
# sample without symbols is the file that it lies in.
STAGES = [
    ("kernel: network, files, page faults", r"\[k\]"),
    ("inflate", r"zlib_rs|crc32fast|flate2"),
    ("decode JSON", r"weir_worker::decode"),
    ("zstd", r"ZSTD_|HUF_|FSE_|HIST_|zstd"),
    ("lz4", r"lz4|LZ4"),
    ("SHA-256", r"sha2|sha256|Sha256"),
    ("render records", r"weir_worker::assemble::(render|record)|ryu|zmij|itoa"),
    ("sort and merge", r"weir_worker::assemble|core::slice::sort"),
    ("Kafka client", r"rd_|rdkafka|crc32c|murmur|weir_kafka"),
    ("Parquet", r"parquet"),
    ("select", r"datafusion|arrow_cast|arrow_string|regex|arrow_ord"),
    ("Arrow", r"arrow"),
    ("HTTP client", r"hyper|aws_|smithy|http|rustls|httparse"),
    ("copies", r"mem(cpy|move|set|cmp)"),
    ("allocator", r"malloc|free|calloc|realloc|alloc"),
    ("runtime", r"tokio|futures|std::sys|core::task|pthread|parking"),
    ("weir, other", r"weir_"),
]
OTHER = "other"
# As `perf report` prints a line: share, shared object, [k] or [.], symbol.
LINE = re.compile(r"^\s*([0-9.]+)%\s+(\S+)\s+(\[[k.]\])\s+(.*)$")


def is_there():
    """Whether `perf` can be used."""
    return shutil.which("perf") is not None


def recording(path):
    """The command that records another one."""
    return ["perf", "record", "--quiet", "--event", "cpu-clock", "--freq", str(SAMPLES_PER_SECOND), "--output", str(path), "--"]


def functions(path):
    """Share and name of each function, most first."""
    report = ["perf", "report", "--stdio", "--no-children", "--percent-limit", "0.02", "--sort", "dso,symbol", "--input", str(path)]
    text = subprocess.run(report, check=True, capture_output=True, text=True).stdout
    lines = [LINE.match(line) for line in text.splitlines()]
    return [(float(line[1]), f"{line[3]} {line[4].strip()} {line[2]}") for line in lines if line]


def stages(found):
    """Shares in percent by stage, most first."""
    shares = {}
    for share, function in found:
        stage = next((name for name, pattern in STAGES if re.search(pattern, function)), OTHER)
        shares[stage] = shares.get(stage, 0.0) + share
    return dict(sorted(shares.items(), key=lambda item: -item[1]))
