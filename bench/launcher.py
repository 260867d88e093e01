"""Runs commands for a measurement, from a process that stays small.

The kernel counts into a program's peak memory that of the process which started it, so whoever measures must not start it
himself. One command a line on standard input, what it took on standard output, both as JSON.
"""

import json
import os
import subprocess
import sys
import time


def run(command, env, output):
    began = time.monotonic()
    with open(output, "wb") as out:
        child = subprocess.Popen(command, env=env, stdout=out, stderr=subprocess.STDOUT)
        _, status, used = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    return {
        "code": child.returncode,
        "cpuSeconds": used.ru_utime + used.ru_stime,
        "wallSeconds": time.monotonic() - began,
        "peakBytes": used.ru_maxrss * 1024,
    }


if __name__ == "__main__":
    for line in sys.stdin:
        print(json.dumps(run(**json.loads(line))), flush=True)
