"""Which walls stand around a template on this machine, and the command line that builds them.

Levels, best first:

``kernel``
    bubblewrap: user/mount/pid/net/ipc/uts namespaces, a read-only root of little more than the interpreter, a private
    tmp of limited size, no capabilities; a seccomp filter; rlimits. Without root it needs user namespaces. As root it
    needs CAP_SYS_ADMIN, and the template drops to a user id of its own, because process limits do not bind root.
``process``
    no namespaces: a stricter seccomp filter and rlimits. No other process, no network, no signals, no writing; but
    the user's files and processes can be read (the judge's own cannot: it makes itself unreadable).
``none``
    rlimits only: a program can do whatever its user can. For debugging on a machine that can be lost.

As root, templates of every level become a user of their own before they take a program.

A level is tried by starting a template under it, not by looking for signs that it might work.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shutil
import sys
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nemo_acereason.sandbox import limits

LEVELS = ("kernel", "process", "none")
PACKAGES = ("numpy", "sortedcontainers")
"""Third-party packages a program finds, where they are installed; nothing else of site-packages is visible."""
TMP_BYTES = 64 << 20

_PACKAGE_ROOT = Path(__file__).resolve().parents[2]
_TEMPLATE = "nemo_acereason/sandbox/inside/template.py"
_VISIBLE_OF_US = ("nemo_acereason/sandbox/inside", "nemo_acereason/rewards/code_values.py")
_INSIDE, _PYTHON = "/sandbox", "/python"
_FIRST_UID = 1_879_048_192
"""2**31 - 2**28: far above what systems hand out; this plus a process id (below 2**22) is a user nobody else is."""
_ENVIRONMENT = {
    "LC_ALL": "C.UTF-8",
    "PYTHONUTF8": "1",
    # Any fixed one makes a verdict repeatable; under this one, unlike 0, all reference solutions of LeetCodeDataset
    # pass, one of which answers in the order of a set.
    "PYTHONHASHSEED": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}


@dataclass(frozen=True, slots=True)
class Level:
    """How templates are isolated here."""

    name: str
    """``kernel``, ``process`` or ``none``."""
    seccomp: bytes
    """Compiled filter for the runs; empty: none."""
    uid: int
    """User id the template drops to; 0: it stays who it is."""

    @property
    def counts_processes(self) -> bool:
        """A process limit would count these runs alone: by user namespace (since Linux 5.14) or by user.

        Else it would count all that the user runs, and an honest program could start no thread.
        """
        return self.name == "kernel" or self.uid != 0

    def command(self, control_fd: int) -> list[str]:
        """The command that starts a template, to be run with an empty environment."""
        kernel = self.name == "kernel"
        config = {
            "control_fd": control_fd,
            "path": [f"{_INSIDE}/lib", f"{_INSIDE}/site"] if kernel else [str(_PACKAGE_ROOT), *_site_directories()],
            "packages": list(PACKAGES),
            "seccomp": b64encode(self.seccomp).decode(),
            "uid": self.uid,
            "scratch": "/tmp" if kernel else "",
            "import_widely": bool(self.uid) and not kernel,
        }
        template = f"{_INSIDE}/lib/{_TEMPLATE}" if kernel else str(_PACKAGE_ROOT / _TEMPLATE)
        python = [_moved(_interpreter()) if kernel else _interpreter(), "-s", template, json.dumps(config)]
        return [*_bubblewrap(self.uid), *python] if kernel else python


def _bubblewrap(uid: int) -> list[str]:
    bwrap = shutil.which("bwrap")
    if bwrap is None:
        raise FileNotFoundError("bubblewrap (bwrap) is not installed")
    command = [bwrap, "--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"]
    command += ["--die-with-parent", "--new-session", "--as-pid-1", "--cap-drop", "ALL"]
    if uid:
        command += ["--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
    else:
        command += ["--unshare-user", "--uid", "65534", "--gid", "65534"]
    command += ["--hostname", "sandbox"]
    places = _visible_places()
    for directory in sorted({str(parent) for _, inside in places for parent in Path(inside).parents} - {"/"}):
        # Or bubblewrap makes the parents of a bound file with mode 0700, shut to the user the template becomes.
        if not os.path.islink(directory):
            command += ["--perms", "0755", "--dir", directory]
    for outside, inside in places:
        command += ["--dev-bind" if inside.startswith("/dev/") else "--ro-bind", outside, inside]
    for directory in ("/lib", "/lib64"):
        if os.path.islink(directory):
            command += ["--symlink", os.readlink(directory), directory]
    stdlib = os.path.realpath(os.path.dirname(os.__file__))
    for hidden in (f"{stdlib}/site-packages", f"{stdlib}/dist-packages", "/usr/lib/python3/dist-packages"):
        if os.path.isdir(hidden):
            command += ["--tmpfs", _moved(hidden), "--remount-ro", _moved(hidden)]
    for name, target in (("fd", "fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")):
        command += ["--symlink", f"/proc/self/{target}", f"/dev/{name}"]
    command += ["--proc", "/proc", "--perms", "1777", "--size", str(TMP_BYTES), "--tmpfs", "/tmp", "--remount-ro", "/"]
    command += ["--chdir", "/tmp", "--clearenv"]
    for name, value in {**_ENVIRONMENT, "LD_LIBRARY_PATH": f"{_PYTHON}/lib"}.items():
        command += ["--setenv", name, value]
    return command


def _visible_places() -> list[tuple[str, str]]:
    """All of the host that is seen inside, read-only: what lies outside, and where it appears."""
    system = ["/usr/lib", "/usr/lib64", "/etc/ld.so.cache"]
    system += [directory for directory in ("/lib", "/lib64") if not os.path.islink(directory)]
    prefix = os.path.realpath(sys.base_prefix)
    python = [_interpreter()] if prefix == "/usr" else [f"{prefix}/bin", f"{prefix}/lib"]
    system += [f"/dev/{device}" for device in ("null", "zero", "full", "random", "urandom")]
    places = [(path, path) for path in system if os.path.exists(path)]
    places += [(path, _moved(path)) for path in python]
    places += [(str(_PACKAGE_ROOT / ours), f"{_INSIDE}/lib/{ours}") for ours in _VISIBLE_OF_US]
    places += [(str(path), f"{_INSIDE}/site/{path.name}") for path in _package_paths(PACKAGES)]
    return places


def _moved(path: str) -> str:
    """Where a path of the interpreter lies inside: not under the user's home or /tmp, where it may lie outside."""
    prefix = os.path.realpath(sys.base_prefix)
    return path if prefix == "/usr" or not path.startswith(f"{prefix}/") else _PYTHON + path[len(prefix) :]


def _interpreter() -> str:
    """The interpreter itself, not the virtual environment's link to it."""
    return os.path.realpath(sys.executable)


def _package_paths(packages: Sequence[str]) -> list[Path]:
    """What must be visible for these packages: their directories, and the shared libraries wheels keep beside them."""
    paths = []
    for name in packages:
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:
            continue
        origin = Path(spec.origin)
        paths.append(origin.parent if origin.name == "__init__.py" else origin)
        libraries = origin.parent.parent / f"{name}.libs"
        if libraries.is_dir():
            paths.append(libraries)
    return paths


def _site_directories() -> list[str]:
    return sorted({str(path.parent) for path in _package_paths(PACKAGES)})


def candidates() -> list[Level]:
    """Levels worth a try here, best first; ``none`` always ends the list."""
    found = []
    uid = own_uid() if os.geteuid() == 0 else 0
    if shutil.which("bwrap"):
        try:
            seccomp = limits.compiled_syscall_filter(True)
        except (ImportError, RuntimeError):
            seccomp = b""
        if uid:
            found.append(Level("kernel", seccomp, uid))
        found.append(Level("kernel", seccomp, 0))
    with contextlib.suppress(ImportError, RuntimeError):
        found.append(Level("process", limits.compiled_syscall_filter(False), uid))
    found.append(Level("none", b"", uid))
    return found


def own_uid() -> int:
    """A user id for this process's templates, so that process limits count its runs and no others."""
    wanted = _FIRST_UID + os.getpid()
    with open("/proc/self/uid_map") as uid_map:
        for line in uid_map:
            first, _, count = map(int, line.split())
            if first <= wanted < first + count:
                return wanted
    return 65534  # a container that maps few ids: "nobody" is always among them


def environment(level: Level) -> dict[str, str]:
    """What the starting command may see: nothing under bubblewrap, whose own environment is readable inside."""
    return {} if level.name == "kernel" else dict(_ENVIRONMENT)
