"""One warm template process and the executor's end of its control channel; and the choice of isolation level."""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import os
import select
import signal
import socket
import subprocess
from typing import Any

from nemo_acereason.errors import ConfigError
from nemo_acereason.sandbox import isolation
from nemo_acereason.sandbox.cgroup import Cgroup, new_cgroup
from nemo_acereason.sandbox.isolation import Level

_log = logging.getLogger(__name__)

MAX_PROCESSES = 64
"""Threads of one run, the template included."""
_START_S = 30.0
"""To import numpy on a loaded machine; a warm template takes 0.2 s on an idle one."""
_END_S = 5.0
"""For bubblewrap to see that its child is gone; it takes a millisecond."""


class TemplateDied(Exception):
    """The template is gone or does not answer: our fault, to be tried again with a new one."""


class WarmTemplate:
    """A running template. Not for several threads; the thread that starts it must outlive it.

    (bubblewrap's ``--die-with-parent`` watches the starting thread, so that a killed worker leaves nothing.)

    Raises:
        TemplateDied: it did not come up; the message has what it printed.
    """

    def __init__(self, level: Level) -> None:
        self.level = level
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            self._process = subprocess.Popen(
                level.command(theirs.fileno()),
                env=isolation.environment(level),
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                cwd="/",
                start_new_session=True,
            )
        except OSError as error:
            self._control.close()
            raise TemplateDied(str(error)) from None
        finally:
            theirs.close()
        self._num_runs = 0
        self.cgroup: Cgroup | None = None
        try:
            self.receive(_START_S)
            self.cgroup = self._enclosed()
        except TemplateDied as error:
            stderr = self._process.stderr
            said = b""
            if stderr is not None and select.select([stderr], [], [], 1.0)[0]:
                said = os.read(stderr.fileno(), 4096)
            self.close()
            raise TemplateDied(f"{error}: {said.decode(errors='replace').strip() or 'it said nothing'}") from None

    def _enclosed(self) -> Cgroup | None:
        """A control group around it, where one can be had; before its first run, so nothing is outside."""
        cgroup = new_cgroup()
        if cgroup is not None:
            try:
                cgroup.limit_processes(MAX_PROCESSES + 16)
                cgroup.add([self.pid, *_children(self.pid)])
            except OSError:
                cgroup.close()
                return None
        return cgroup

    def fileno(self) -> int:
        """For select: readable when :meth:`receive` would not wait."""
        return self._control.fileno()

    def begin(self, request: dict[str, Any], fds: list[int]) -> int:
        """Start a run; its number, which its end will carry."""
        self._num_runs += 1
        if self.cgroup is not None:
            self.cgroup.limit_memory(request["memory_bytes"])
        try:
            socket.send_fds(self._control, [json.dumps({**request, "run": self._num_runs}).encode()], fds)
        except OSError as error:
            raise TemplateDied(f"control channel: {error}") from None
        return self._num_runs

    def kill_run(self) -> None:
        """End the run under way; its end is reported all the same."""
        try:
            self._control.send(b'{"kill": true}')
        except OSError as error:
            raise TemplateDied(f"control channel: {error}") from None

    def receive(self, timeout_s: float) -> dict[str, Any]:
        """The template's next message."""
        self._control.settimeout(timeout_s)
        try:
            data = self._control.recv(65_536)
        except OSError as error:
            raise TemplateDied(f"no answer: {error}") from None
        if not data:
            raise TemplateDied("it ended")
        message: dict[str, Any] = json.loads(data)
        return message

    def close(self) -> None:
        """Kill it and everything inside; returns when that is done. Safe to call twice."""
        self._control.close()
        if self._process.poll() is None:
            # Process 1 of the namespace takes everything inside with it, and bubblewrap reaps it; killed the other
            # way round it would be left to the machine's init. Without namespaces: the run under way, if any.
            inside = _children(self.pid)
            if self.level.name == "kernel":
                _kill(inside)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(_END_S)
            _kill([self.pid])
            self._process.wait()
            if self.level.name != "kernel":
                _kill(inside)
        if self._process.stderr is not None:
            self._process.stderr.close()
        if self.cgroup is not None:
            self.cgroup.close()

    @property
    def pid(self) -> int:
        """Of the command started outside."""
        return self._process.pid

    def cpu_s(self) -> float:
        """CPU seconds so far of the template and all runs it has reaped, of bubblewrap too; to 10 ms."""
        ticks = os.sysconf("SC_CLK_TCK")
        return sum(sum(map(int, _stat(pid)[13:17])) for pid in [self.pid, *_children(self.pid)]) / ticks


def _kill(pids: list[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _children(pid: int) -> list[int]:
    try:
        with open(f"/proc/{pid}/task/{pid}/children") as children:
            return [int(child) for child in children.read().split()]
    except OSError:  # it has just ended
        return []


def _stat(pid: int) -> list[str]:
    """The fields of proc(5), from the first; the command's name is cut out, it may hold spaces."""
    with open(f"/proc/{pid}/stat") as stat:
        before, _, after = stat.read().partition("(")
    return [before, "", *after.rpartition(")")[2].split()]


def why_not(level: Level) -> str:
    """Start a template under ``level`` and stop it; empty when that worked, else the reason in one line."""
    try:
        WarmTemplate(level).close()
    except (TemplateDied, FileNotFoundError) as error:
        return " ".join(str(error).split())
    return ""


@functools.cache
def choose_level(wanted: str) -> Level:
    """The level to use.

    Args:
        wanted: ``auto`` for the best that works here (said once, loudly, when that is not ``kernel``), or the name of
            a level that must be had.
    Raises:
        ConfigError: the level asked for cannot be had, with the reason.
    """
    if wanted not in ("auto", *isolation.LEVELS):
        raise ConfigError(f"isolation={wanted!r} is not one of auto, {', '.join(isolation.LEVELS)}")
    reasons = []
    for level in isolation.candidates():
        if wanted not in ("auto", level.name):
            continue
        if level.name == "kernel" and not level.seccomp:
            reasons.append("kernel: libseccomp or pyseccomp is missing")
            continue
        reason = why_not(level)
        if not reason:
            if wanted == "auto" and level.name != "kernel":
                _log.warning(
                    "code runs with isolation level %r only (%s): see `acereason sandbox doctor`",
                    level.name,
                    "; ".join(reasons) or "bubblewrap is not installed",
                )
            return level
        reasons.append(f"{level.name}: {reason}")
    detail = "; ".join(reasons) or "bubblewrap (bwrap) or libseccomp is not installed"
    raise ConfigError(f"isolation={wanted!r} cannot be had here ({detail}); install bubblewrap or see `sandbox doctor`")
