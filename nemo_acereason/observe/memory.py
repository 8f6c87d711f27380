"""Peak memory of processes and of this process's GPU. Reads counters that kernel and torch keep; no thread.

Resident memory counts pages that processes share once for each of them, so a sum over processes is an upper bound.
"""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterable
from pathlib import Path


def peak_resident_bytes(pid: int | None = None) -> int:
    """Highest resident memory so far, bytes, of one process (None: this one); 0 for a process that is gone.

    Where there is no ``/proc`` (macOS) only this process can be asked.
    """
    try:
        status = Path("/proc", "self" if pid is None else str(pid), "status").read_text()
    except OSError:
        if pid is not None:
            return 0
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
    for line in status.splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0  # a zombie has no memory left to show


def peak_resident_bytes_of(pids: Iterable[int]) -> int:
    """Sum of :func:`peak_resident_bytes` over processes, each counted once."""
    return sum(peak_resident_bytes(pid) for pid in set(pids))


def descendant_pids(pid: int) -> list[int]:
    """The living children of a process, and theirs; empty where there is no ``/proc``."""
    found: list[int] = []
    for children in Path("/proc", str(pid), "task").glob("*/children"):
        try:
            direct = [int(child) for child in children.read_text().split()]
        except OSError:
            continue  # the thread ended between the listing and the reading
        for child in direct:
            found += [child, *descendant_pids(child)]
    return found


def peak_device_bytes() -> int:
    """Highest memory this process has held on its current GPU, bytes; 0 without one.

    Memory reserved by torch's allocator, not only the tensors in it: it is what others could not have.
    """
    import torch  # here: who asks for resident memory alone does not wait for it

    if not (torch.cuda.is_available() and torch.cuda.is_initialized()):  # type: ignore[no-untyped-call]
        return 0
    return int(torch.cuda.max_memory_reserved())
