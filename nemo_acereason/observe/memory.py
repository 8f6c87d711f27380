"""Peak resident memory of processes. Reads a counter that the kernel keeps; no thread.

Resident memory counts pages that processes share once for each of them, so a sum over processes is an upper bound.
"""

from __future__ import annotations

import resource
import sys
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
