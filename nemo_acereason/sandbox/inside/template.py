"""The warm process inside the sandbox that forks one child per run. Runs as ``python template.py CONFIG_JSON``.

It imports what programs use once, gives up its privileges, and then only forks, kills and reaps. It never reads a
program, an input or an output: those pass between the child and the executor outside. Where it is PID 1 of its
namespace, nothing inside can signal it, and ``kill(-1)`` after each run leaves nothing of that run alive.
"""

from __future__ import annotations

import base64
import contextlib
import ctypes
import gc
import importlib
import json
import os
import resource
import select
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from nemo_acereason.sandbox.inside.child import SyscallFilter

_PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS, _PR_SET_CHILD_SUBREAPER = 4, 38, 36
_MAX_REQUEST_BYTES = 65_536
_STACK_BYTES = 1 << 30
"""Main thread stack: compiled code (functools.cache, sorted with a key) recurses on it, as on judges' machines."""

_WIDELY_USED = (
    *("abc", "argparse", "array", "ast", "asyncio", "base64", "binascii", "bz2", "calendar", "cmath", "cProfile"),
    *("concurrent.futures", "contextlib", "csv", "ctypes", "dataclasses", "decimal", "difflib", "dis", "doctest"),
    *("encodings.ascii", "encodings.idna", "encodings.latin_1", "enum", "fractions", "getpass", "glob", "graphlib"),
    *("gzip", "hashlib", "hmac", "inspect", "keyword", "linecache", "locale", "logging", "mmap", "multiprocessing"),
    *("numbers", "numpy.linalg", "numpy.random", "pathlib", "pickle", "platform", "pprint", "profile", "pstats"),
    *("queue", "resource", "sched", "secrets", "select", "selectors", "shlex", "shutil", "signal", "socket", "stat"),
    *("struct", "subprocess", "symtable", "tempfile", "textwrap", "threading", "time", "timeit", "token", "tokenize"),
    *("tracemalloc", "types", "unicodedata", "unittest", "uuid", "warnings", "weakref", "zlib", "zoneinfo"),
)
"""What programs import, taken in before the template becomes a user who cannot read the interpreter's directory."""


def main() -> None:
    """Warm up, say so, serve."""
    config = json.loads(sys.argv[1])
    _deepen_stack()
    sys.path[:0] = config["path"]
    from nemo_acereason.sandbox.inside import child

    _import(config["packages"])
    main_module = child.new_main()
    compiled = base64.b64decode(config["seccomp"])
    syscall_filter = child.SyscallFilter(compiled) if compiled else None
    control = socket.socket(fileno=os.dup(config["control_fd"]))
    os.close(config["control_fd"])
    if config["import_widely"]:
        _import(_WIDELY_USED)
    _drop_privileges(config["uid"])
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    _try_out(syscall_filter)
    gc.collect()
    gc.freeze()  # a collection in a child must not touch, and so copy, the pages it shares with this process
    base_bytes, scratch = _address_bytes(), config["scratch"]
    control.send(json.dumps({"warm": True, "base_bytes": base_bytes, "pid": os.getpid()}).encode())
    _serve(
        control, lambda request, fds: child.become_run(request, fds, main_module, syscall_filter), base_bytes, scratch
    )


def _try_out(syscall_filter: SyscallFilter | None) -> None:
    """Fail now, with a reason, where this kernel lacks what each run will need."""
    os.close(os.pidfd_open(os.getpid()))
    if syscall_filter is not None:
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                syscall_filter.load()
                status = 0
            finally:
                os._exit(status)
        if os.waitpid(pid, 0)[1]:
            sys.exit("the kernel refuses the seccomp filter")


def _import(names: Sequence[str]) -> None:
    for name in names:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)


def _deepen_stack() -> None:
    """The stack's room is fixed when a program starts: raise the limit, then start again."""
    soft, hard = resource.getrlimit(resource.RLIMIT_STACK)
    wanted = _STACK_BYTES if hard == resource.RLIM_INFINITY else min(_STACK_BYTES, hard)
    if soft != wanted:
        resource.setrlimit(resource.RLIMIT_STACK, (wanted, hard))
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _drop_privileges(uid: int) -> None:
    if uid:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    prctl = ctypes.CDLL(None).prctl
    prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)  # no ptrace, no /proc/PID/mem or environ of this process for its children
    prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _address_bytes() -> int:
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[0]) * resource.getpagesize()


def _serve(
    control: socket.socket, become_run: Callable[[dict[str, Any], list[int]], NoReturn], base_bytes: int, scratch: str
) -> None:
    while True:
        data, fds, _, _ = socket.recv_fds(control, _MAX_REQUEST_BYTES, 3)
        if not data:
            return
        request = json.loads(data)
        if "mode" not in request:  # a kill that came too late: its run had ended
            continue
        request["address_bytes"] = base_bytes + request["memory_bytes"]
        pid = os.fork()
        if pid == 0:
            control.close()
            become_run(request, fds)
        for fd in fds:
            os.close(fd)
        _wait(control, pid)
        status, usage = _end(pid)
        control.send(
            json.dumps(
                {
                    "run": request["run"],
                    "status": status,
                    "cpu_s": usage.ru_utime + usage.ru_stime,
                    "peak_bytes": usage.ru_maxrss * 1024,
                    "residue": _has_residue(scratch),
                }
            ).encode()
        )


def _wait(control: socket.socket, pid: int) -> None:
    """Until the child ends or the executor says anything, which can only be: kill it."""
    process = os.pidfd_open(pid)
    try:
        ready, _, _ = select.select([process, control.fileno()], [], [])
        if control.fileno() in ready and not control.recv(_MAX_REQUEST_BYTES):
            os.kill(pid, signal.SIGKILL)
            sys.exit(0)
    finally:
        os.close(process)


def _end(pid: int) -> tuple[int, resource.struct_rusage]:
    """Kill everything the run left and reap it; the run's own exit status (negative: signal) and use."""
    with contextlib.suppress(ProcessLookupError):
        if os.getpid() == 1:
            os.kill(-1, signal.SIGKILL)
        else:
            os.kill(pid, signal.SIGKILL)
            os.killpg(pid, signal.SIGKILL)
    _, status, usage = os.wait4(pid, 0)
    while True:
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return os.waitstatus_to_exitcode(status), usage


def _has_residue(scratch: str) -> bool:
    """Whether the run left a file: then this template is thrown away with its tmp, and a fresh one started."""
    if not scratch:
        return False
    with os.scandir(scratch) as entries:
        return next(entries, None) is not None


if __name__ == "__main__":
    main()
