"""A control group around one template, where this user may make one: a second bound on processes and memory.

It counts what rlimits do not: memory files, pipes, page tables, files in tmp. Version 1 hierarchies and delegated
version 2 ones are used as they are found. It is never required: runs cannot start processes and have an address-space
limit without it.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")
_PREFIX = "acereason-"
_CONTROLLERS = ("pids", "memory")
_OVERHEAD_BYTES = 256 << 20
"""The template and bubblewrap themselves, and the private tmp."""
_numbers = itertools.count()


class Cgroup:
    """One group (a directory, or one per controller); holds the processes given to it and all their children."""

    def __init__(self, directories: dict[str, Path]) -> None:
        self._directories = directories
        self._memory_bytes = 0
        self._num_oom_kills = self._count_oom_kills()

    def add(self, pids: list[int]) -> None:
        """Move processes in; what they start from now on is in too."""
        for directory in set(self._directories.values()):
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    (directory / "cgroup.procs").write_text(str(pid))

    def limit_processes(self, count: int) -> None:
        """Processes and threads in the group at any time."""
        (self._directories["pids"] / "pids.max").write_text(str(count))

    def limit_memory(self, num_bytes: int) -> None:
        """Memory of a run; the kernel kills inside the group when that is used up."""
        if num_bytes != self._memory_bytes:
            name = "memory.max" if self._is_unified else "memory.limit_in_bytes"
            (self._directories["memory"] / name).write_text(str(num_bytes + _OVERHEAD_BYTES))
            self._memory_bytes = num_bytes

    def has_run_out_of_memory(self) -> bool:
        """Whether the kernel has killed inside the group since this was last asked."""
        before, self._num_oom_kills = self._num_oom_kills, self._count_oom_kills()
        return self._num_oom_kills > before

    def close(self) -> None:
        """Remove the group once its processes are gone; they have been killed and end within milliseconds."""
        for directory in set(self._directories.values()):
            for _ in range(100):
                try:
                    directory.rmdir()
                    break
                except FileNotFoundError:
                    break
                except OSError:
                    time.sleep(0.01)

    @property
    def _is_unified(self) -> bool:
        return self._directories["pids"] == self._directories["memory"]

    def _count_oom_kills(self) -> int:
        name = "memory.events" if self._is_unified else "memory.oom_control"
        with contextlib.suppress(OSError):
            for line in (self._directories["memory"] / name).read_text().splitlines():
                key, _, count = line.partition(" ")
                if key == "oom_kill":
                    return int(count)
        return 0


def new_cgroup() -> Cgroup | None:
    """A group below this process's own, or beside it, or None where that cannot be had."""
    name = f"{_PREFIX}{os.getpid()}-{next(_numbers)}"
    for parents in _possible_parents():
        made: dict[str, Path] = {}
        try:
            for controller, parent in parents.items():
                _remove_left_over(parent)
                made[controller] = parent / name
                made[controller].mkdir(exist_ok=True)
            if all((made[c] / f"{c}.{end}").exists() for c, end in zip(_CONTROLLERS, ("max", "stat"), strict=True)):
                return Cgroup(made)
        except OSError:
            pass
        for directory in made.values():
            with contextlib.suppress(OSError):
                directory.rmdir()
    return None


def _possible_parents() -> list[dict[str, Path]]:
    """Per controller the directory to make a group in; several to try, likeliest first."""
    own: dict[str, str] = {}
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            own.update(dict.fromkeys(controllers.split(","), path))
    found = []
    if all(controller in own for controller in _CONTROLLERS):
        found.append({c: _ROOT / c / own[c].lstrip("/") for c in _CONTROLLERS})
    if "" in own:
        place = _ROOT / own[""].lstrip("/")
        found += [dict.fromkeys(_CONTROLLERS, parent) for parent in (place, place.parent)]
    return found


def _remove_left_over(parent: Path) -> None:
    """Groups of processes that were killed before they could remove them. One in use refuses to go."""
    for old in parent.glob(f"{_PREFIX}*"):
        pid = old.name.removeprefix(_PREFIX).partition("-")[0]
        if not os.path.exists(f"/proc/{pid}"):
            with contextlib.suppress(OSError):
                old.rmdir()
