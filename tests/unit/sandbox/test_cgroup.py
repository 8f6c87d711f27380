"""Control groups, on a machine where this user may make one."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from nemo_acereason.sandbox.cgroup import Cgroup, new_cgroup

_WAITS = "import sys\nsys.stdin.readline()\n"


@pytest.fixture
def cgroup() -> Iterator[Cgroup]:
    cgroup = new_cgroup()
    if cgroup is None:
        pytest.skip("this user may make no control group")
    yield cgroup
    cgroup.close()


def _start(program: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", _WAITS + program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_more_processes_than_allowed_are_refused(cgroup: Cgroup) -> None:
    cgroup.limit_processes(1)
    process = _start("import os\nos.fork()")
    cgroup.add([process.pid])
    _, errors = process.communicate("\n", timeout=60)
    assert "BlockingIOError" in errors


def test_memory_beyond_the_limit_is_a_kill_that_is_noticed(cgroup: Cgroup) -> None:
    cgroup.limit_memory(16 << 20)
    process = _start("x = bytearray(b'1') * (600 << 20)")
    cgroup.add([process.pid])
    process.communicate("\n", timeout=60)
    assert process.returncode == -9
    assert cgroup.has_run_out_of_memory()
    assert not cgroup.has_run_out_of_memory(), "it is said once"


def test_groups_of_dead_processes_are_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getpid", lambda: 2**22 + 1)
    left = new_cgroup()
    monkeypatch.undo()
    if left is None:
        pytest.skip("this user may make no control group")
    directories = set(left._directories.values())
    assert all(directory.is_dir() for directory in directories)
    fresh = new_cgroup()
    assert fresh is not None
    fresh.close()
    assert not any(directory.exists() for directory in directories)
