"""What this machine offers to keep programs in, found by trying it: the content of ``acereason sandbox doctor``."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from nemo_acereason.errors import ConfigError
from nemo_acereason.records import RunLimits, Verdict
from nemo_acereason.sandbox import isolation, warm
from nemo_acereason.sandbox.cgroup import new_cgroup
from nemo_acereason.sandbox.executor import SandboxExecutor

_QUICK = RunLimits(time_limit_s=0.5, memory_bytes=256 << 20, output_bytes=1 << 20)


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report."""

    name: str
    is_good: bool
    detail: str
    """What was found; where it is not good, also what to do."""


_ATTEMPTS: tuple[tuple[str, str, tuple[Verdict | None, ...]], ...] = (
    ("an honest program", "print(int(input()) * 2)", (None,)),
    ("endless loop ends", "while True: pass", (Verdict.TIMEOUT,)),
    ("memory limit", "x = bytearray(1 << 30)", (Verdict.MEMORY,)),
    ("output limit", "print('x' * (2 << 20))", (Verdict.OUTPUT_LIMIT,)),
    ("no new processes", "import os\nos.fork()", (Verdict.FORBIDDEN,)),
    ("no network", "import socket\nsocket.socket()", (Verdict.FORBIDDEN,)),
    ("no writing outside tmp", "open('/usr/lib/x', 'w')", (Verdict.CRASH,)),
    (
        "nothing of the user's files",
        "import os\nos.listdir(os.path.expanduser('~root'))\nos.listdir('/etc/ssl')",
        (Verdict.CRASH,),
    ),
    ("nothing of the template's memory", "import os\nopen(f'/proc/{os.getppid()}/mem')", (Verdict.CRASH,)),
    ("no own environment", "import os\nopen('/proc/1/environ').read(1)\nprint(1)", (Verdict.CRASH,)),
)
"""What is tried: a name, a program, and how it must end."""


def doctor(wanted: str = "auto") -> list[Finding]:
    """Look at the machine, choose a level as a run with ``isolation=wanted`` would, and try what it holds back.

    Takes a few seconds. The first finding names the level that is on.
    """
    findings = _offers()
    try:
        executor = SandboxExecutor(wanted)
    except ConfigError as error:
        return [Finding("level", False, str(error)), *findings]
    level = executor.level
    user = f"as user {level.uid}" if level.uid else "as the user who started it"
    findings.insert(0, Finding("level", level.name == "kernel", f"{level.name}, programs run {user}"))
    try:
        for name, program, ends in _ATTEMPTS:
            result = executor.run(program, "21\n", _QUICK)
            said = result.failure.value if result.failure else f"ran to its end, printed {result.output.strip()[:40]!r}"
            findings.append(
                Finding(name, result.failure in ends, said + (f" ({result.detail})" if result.detail else ""))
            )
    finally:
        executor.close()
    return findings


def _offers() -> list[Finding]:
    bwrap = shutil.which("bwrap")
    findings = [Finding("bubblewrap", bwrap is not None, bwrap or "not installed: `apt-get install bubblewrap`")]
    compiled = any(level.seccomp for level in isolation.candidates())
    findings.append(
        Finding(
            "seccomp", compiled, "filter compiles" if compiled else "install pyseccomp (pip) and libseccomp2 (system)"
        )
    )
    for level in isolation.candidates():
        who = f" as user {level.uid}" if level.uid else ""
        reason = warm.why_not(level)
        remedy = f"; {_kernel_remedy()}" if reason and level.name == "kernel" and not level.uid else ""
        findings.append(Finding(f"level {level.name}{who}", not reason, f"{reason}{remedy}" if reason else "starts"))
    cgroup = new_cgroup()
    if cgroup is not None:
        cgroup.close()
    detail = "made" if cgroup is not None else "this user may make none; rlimits and the filter bound runs without it"
    findings.append(Finding("control group", True, detail))
    cores = len(os.sched_getaffinity(0))
    findings.append(Finding("cores", True, f"{cores}: more workers than this only wait for each other"))
    return findings


def _kernel_remedy() -> str:
    """How bubblewrap would be let build its walls, by what this process is under."""
    mounts = [line.split()[4] for line in _lines("/proc/self/mountinfo")]
    options = container_options(_lines("/proc/self/status"), mounts, "".join(_lines("/proc/self/attr/current")))
    if options:
        return f"start the container with {' '.join(options)}"
    return (
        "let users make namespaces: sysctl user.max_user_namespaces above 0, and on Ubuntu "
        "kernel.apparmor_restrict_unprivileged_userns=0"
    )


def container_options(status: Iterable[str], mounts: Iterable[str], profile: str) -> list[str]:
    """Options of ``docker run`` and ``podman run`` that take down what stands in bubblewrap's way.

    Args:
        status: lines of ``/proc/self/status``.
        mounts: where something is mounted; over parts of ``/proc``, no other ``/proc`` may be.
        profile: AppArmor's, of this process.
    """
    found = []
    if "Seccomp:\t2" in status:
        found.append("seccomp=unconfined")
    if any(path.startswith("/proc/") and path != "/proc/sys/fs/binfmt_misc" for path in mounts):
        found.append("systempaths=unconfined")
    if profile.strip().endswith("(enforce)"):
        found.append("apparmor=unconfined")
    return [f"--security-opt {option}" for option in found]


def _lines(path: str) -> list[str]:
    """Of a file of the kernel's; none where it has no such file, or does not show it."""
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []
