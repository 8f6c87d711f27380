"""The tie of a process to the one that started it: no helper outlives its owner, whatever that died of."""

from __future__ import annotations

import ctypes
import os
import signal

_PR_SET_PDEATHSIG = 1


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process as soon as its parent is gone.

    The kernel watches the *thread* that started this process: one that is started from a short-lived thread would end
    with it.

    Args:
        parent: the parent's process id as the parent knows it; where it is gone already, this process ends here.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
