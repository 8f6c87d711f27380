"""All trainer ranks of a run on this machine: started together, ended together, one reason told.

A rank finds its place in the variables torchrun would set; nothing else here is known to it.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType

from nemo_acereason.errors import AceReasonError

GRACE_S = 10.0
"""How long ranks may take to end by themselves once one has failed."""


class RankFailure(AceReasonError):
    """A trainer rank ended the run; carries the exit status of what it met."""

    def __init__(self, message: str, exit_status: int) -> None:
        super().__init__(message)
        self.exit_status = exit_status


def run_ranks(run_dir: Path, num_ranks: int) -> None:
    """Run the plan of ``run_dir`` on ``num_ranks`` processes and wait for all.

    Rank 0 writes progress to this terminal; everything else goes to ``RUN/logs/rank_N.log``.

    Raises:
        RankFailure: what the first failing rank said, with its exit status.
        KeyboardInterrupt: after the ranks have been ended.
    """
    logs = run_dir / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    for stale in logs.glob("error_*.json"):
        stale.unlink()
    port = _free_port()
    processes = [_start(run_dir, rank, num_ranks, port) for rank in range(num_ranks)]

    def forward(number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt(signal.Signals(number).name)

    before = signal.signal(signal.SIGTERM, forward)
    try:
        while (first := _first_failed(processes)) is None:
            if all(process.returncode == 0 for process in processes):
                return
            time.sleep(0.05)
        status = processes[first].returncode
        _wait(processes, GRACE_S)
    finally:
        for process in processes:
            with contextlib.suppress(ProcessLookupError):  # a dead rank's own helpers may still be there
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        signal.signal(signal.SIGTERM, before)
    raise _failure(logs, first, status)


def _start(run_dir: Path, rank: int, num_ranks: int, port: int) -> subprocess.Popen[bytes]:
    threads = max((os.cpu_count() or 1) // num_ranks, 1)
    environment = {
        "OMP_NUM_THREADS": str(threads),
        **os.environ,
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(num_ranks),
        "LOCAL_WORLD_SIZE": str(num_ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    log = run_dir / "logs" / f"rank_{rank}.log"
    with log.open("ab") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "nemo_acereason.launch.rank", str(run_dir), "--parent", str(os.getpid())],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=None if rank == 0 else file,
            stderr=file,
            start_new_session=True,
        )


def _wait(processes: list[subprocess.Popen[bytes]], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while any(process.poll() is None for process in processes) and time.monotonic() < deadline:
        time.sleep(0.05)


def _first_failed(processes: list[subprocess.Popen[bytes]]) -> int | None:
    failed = [rank for rank, process in enumerate(processes) if process.poll() not in (None, 0)]
    # of several found at once the killed one is the cause: the others end because it is gone
    return min(failed, key=lambda rank: processes[rank].returncode >= 0, default=None)


def _failure(logs: Path, rank: int, status: int) -> RankFailure:
    """What the ranks reported, else how ``rank``, the first to end, ended.

    A killed rank reports nothing, and what the others then report (a closed connection) is not the cause.
    """
    reports = sorted(logs.glob("error_*.json"), key=lambda file: file.stat().st_mtime)
    for report in map(_read, reports):
        if report["is_known"]:
            return RankFailure(str(report["message"]), int(str(report["exit_status"])))
    log = logs / f"rank_{rank}.log"
    if status < 0:
        name = signal.Signals(-status).name
        hint = " (out of memory?)" if name == "SIGKILL" else f"; see {log}"
        return RankFailure(f"rank {rank} was killed by {name}{hint}; start again to go on from the last checkpoint", 1)
    for file in reports:
        number = file.stem.removeprefix("error_")
        return RankFailure(f"rank {number}: {_read(file)['message']}; traceback in {logs}/rank_{number}.log", 1)
    return RankFailure(f"rank {rank} ended with status {status}; see {log}", 1)


def _read(file: Path) -> dict[str, object]:
    content = json.loads(file.read_text())
    assert isinstance(content, dict)
    return content


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
