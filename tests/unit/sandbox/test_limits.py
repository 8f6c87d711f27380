"""The system-call filter, on a process of our own that has no other protection."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from nemo_acereason.sandbox.limits import compiled_syscall_filter

pytest.importorskip("pyseccomp", exc_type=ImportError)
_LOAD = (
    "import ctypes, sys\n"
    "from nemo_acereason.sandbox.inside.child import SyscallFilter\n"
    "ctypes.CDLL(None).prctl(38, 1, 0, 0, 0)\n"
    "SyscallFilter(bytes.fromhex(sys.argv[1])).load()\n"
)


def _run(program: str, *, has_namespaces: bool) -> subprocess.CompletedProcess[str]:
    compiled = compiled_syscall_filter(has_namespaces).hex()
    return subprocess.run(
        [sys.executable, "-c", _LOAD + program, compiled], capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize(
    "program",
    [
        "import os\nos.fork()",
        "import os\nos.execv('/bin/true', ['true'])",
        "import socket\nsocket.socket()",
        "import ctypes\nctypes.CDLL(None).ptrace(0, 0, 0, 0)",
        "import ctypes\nctypes.CDLL(None).unshare(0)",
    ],
)
def test_forbidden_calls_end_the_process(program: str) -> None:
    assert _run(program, has_namespaces=True).returncode == -signal.SIGSYS


@pytest.mark.parametrize(
    "program",
    [
        "import threading\nt = threading.Thread(target=print)\nt.start()\nt.join()",
        "import resource\nresource.setrlimit(resource.RLIMIT_NOFILE, (9, 9))",
        "import random, time, os\nrandom.random()\ntime.sleep(0.01)\nos.sched_getaffinity(0)",
    ],
)
def test_what_programs_need_is_let_through(program: str) -> None:
    done = _run(program, has_namespaces=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "program",
    [
        f"import os\nos.sched_setaffinity({os.getppid()}, {{0}})",
        f"import resource\nresource.prlimit({os.getppid()}, resource.RLIMIT_CPU)",
        "import os\nos.memfd_create('x')",
        "import os\nos.setpriority(os.PRIO_USER, 0, 1)",
    ],
)
def test_reaching_for_other_processes_is_refused(program: str) -> None:
    assert "PermissionError" in _run(program, has_namespaces=True).stderr


@pytest.mark.parametrize(
    "program",
    [
        "open('{path}', 'w')",
        "open('{path}', 'r+')",
        "open('{path}', 'x')",
        "import os\nos.open('{path}', os.O_RDONLY | os.O_CREAT)",
        "import os\nos.open('{path}', os.O_RDONLY | os.O_TRUNC)",
        "import os\nos.unlink('{path}')",
        "import os\nos.rename('{path}', '{path}2')",
        "import os\nos.mkdir('{path}2')",
        "import os\nos.chmod('{path}', 0)",
        "import os\nos.utime('{path}')",
        "import os\nos.truncate('{path}', 0)",
        "import os\nos.symlink('{path}', '{path}2')",
    ],
)
def test_without_a_file_system_of_its_own_a_program_writes_nowhere(program: str, tmp_path: object) -> None:
    path = f"{tmp_path}/file"
    with open(path, "w") as file:
        file.write("kept")
    assert "PermissionError" in _run(program.format(path=path), has_namespaces=False).stderr
    with open(path) as file:
        assert file.read() == "kept"
    assert os.listdir(str(tmp_path)) == ["file"]


def test_without_a_namespace_of_its_own_a_program_signals_nobody() -> None:
    # Signal 0 does nothing where it is let through, as in the second line: this test must not be able to hurt.
    assert _run("import os\nos.kill(os.getppid(), 0)", has_namespaces=False).returncode == -signal.SIGSYS
    assert _run("import os\nos.kill(os.getppid(), 0)", has_namespaces=True).returncode == 0
