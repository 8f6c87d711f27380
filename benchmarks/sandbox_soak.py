"""100,000 runs in a row: memory, files, processes and tmp must stay flat, and the last runs be as fast as the first.

``python benchmarks/sandbox_soak.py --runs 100000`` prints one JSON line. Nine runs in ten are honest; of the rest some
crash, print too much, leave threads, or are killed at a limit. One in 20,000 leaves a file: its template is
replaced, so a template serves that many.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

from nemo_acereason.records import RunLimits
from nemo_acereason.sandbox.executor import SandboxExecutor

LIMITS = RunLimits(time_limit_s=1.0, memory_bytes=512 << 20, output_bytes=1 << 20)
SHORT = RunLimits(time_limit_s=0.02, memory_bytes=512 << 20, output_bytes=1 << 20)
HONEST = "n = int(input())\nprint(sum(i * i for i in range(n)))"
OTHERS = (
    ("1 / 0", LIMITS),
    ("import os\nos.fork()", LIMITS),
    ("x = bytearray(1 << 30)", LIMITS),
    ("import threading, time\nthreading.Thread(target=time.sleep, args=(9,), daemon=True).start()", LIMITS),
    ("print('x' * (2 << 20))", LIMITS),
    ("while True: pass", SHORT),
)
LEAVES_A_FILE = "open('/tmp/x', 'w').write('x')"


def state(executor: SandboxExecutor) -> dict[str, int]:
    """What could grow, in this process, its template and the machine."""
    template = executor.warm().pid
    inner = Path(f"/proc/{template}/task/{template}/children").read_text().split()
    processes = [os.getpid(), template, *map(int, inner)]
    return {
        "own_kib": int(_status(os.getpid(), "VmRSS")),
        "template_kib": max(int(_status(pid, "VmRSS")) for pid in processes[1:]),
        "own_fds": len(os.listdir("/proc/self/fd")),
        "template_fds": max(len(os.listdir(f"/proc/{pid}/fd")) for pid in processes[1:]),
        "processes": len(processes),
        "tmp_entries": len(os.listdir(tempfile.gettempdir())),
    }


def _status(pid: int, key: str) -> str:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return line.split()[1]
    return "0"


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=20_000)
    parser.add_argument("--isolation", default="auto")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        tempfile.tempdir = directory
        print(json.dumps(soak(options.runs, options.isolation)))


def soak(num_runs: int, isolation: str) -> dict[str, Any]:
    """Run, and report what was there early on and at the end."""
    executor = SandboxExecutor(isolation)
    wrong = num_infrastructure = 0
    windows: list[float] = []
    window = max(1, num_runs // 10)
    started = cpu_started = 0.0
    first: dict[str, int] = {}
    for number in range(num_runs):
        if number % window == 0:
            windows.append(time.perf_counter())
        if number == min(1000, num_runs // 10):
            first, started, cpu_started = state(executor), time.perf_counter(), _cpu_s()
        if number % 10 == 9:
            program, limits = OTHERS[number // 10 % len(OTHERS)]
            result = executor.run(LEAVES_A_FILE if number % 20_000 == 19_999 else program, "", limits)
        else:
            result = executor.run(HONEST, "50\n", LIMITS)
            wrong += result.output != "40425\n"
        num_infrastructure += result.failure is not None and result.failure.value == "infrastructure"
    windows.append(time.perf_counter())
    last = state(executor)
    report = {
        "runs": num_runs,
        "isolation": executor.level.name,
        "wrong": wrong,
        "infrastructure": num_infrastructure,
        "seconds": round(time.perf_counter() - started, 1),
        "own_cpu_s": round(_cpu_s() - cpu_started, 1),
        "first_tenth_ms_per_run": round(1e3 * (windows[1] - windows[0]) / window, 2),
        "last_tenth_ms_per_run": round(1e3 * (windows[-1] - windows[-2]) / window, 2),
        "after_warm_up": first,
        "at_the_end": last,
    }
    executor.close()
    return report


def _cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    main()
