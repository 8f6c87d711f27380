"""Runs programs in a warm sandbox: the :class:`~nemo_acereason.protocols.CodeExecutor` of this package.

::

    executor ── control (seqpacket) ──> template ──fork──> child        one child per run, killed and reaped after it
        └───────── channel (stream), stdin and stdout (memory files) ────┘

The executor watches the limits from outside: CPU seconds by the kernel's clock of the child (whose process id comes
from the kernel with the child's first message), wall seconds, and the size of what comes back. It does not judge.
"""

from __future__ import annotations

import atexit
import ctypes
import fcntl
import json
import os
import secrets
import select
import signal
import socket
import struct
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from nemo_acereason.records import RunLimits, RunResult, Verdict
from nemo_acereason.rewards.code_values import ValueRefused, check
from nemo_acereason.sandbox.inside import wire
from nemo_acereason.sandbox.warm import MAX_PROCESSES, TemplateDied, WarmTemplate, choose_level

_GRACE_S = 5.0
"""For the template to kill and reap; it takes milliseconds, unless the machine swaps."""
_START_S = 20.0
"""From the request to the child's first message."""
_MAX_ATTEMPTS = 6
"""With a new template each, before a run is given up as infrastructure."""
_PR_SET_DUMPABLE = 4
_CREDENTIALS = struct.Struct("3i")
_SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL


class ChildKilled(Exception):
    """The child was killed, not by us: by the kernel, an operator, what ends a cluster's job, or itself.

    Only the last happens again.
    """

    def __init__(self, number: int, cpu_s: float) -> None:
        super().__init__(f"killed by {signal.Signals(number).name} before its end, twice")
        self.cpu_s = cpu_s


class SandboxExecutor:
    """Runs programs, one at a time, in children of one warm template that is started when first needed.

    A template that dies is replaced and the run repeated; one whose program left files is thrown away with them.
    For one thread only. :meth:`close` ends the template; it also dies with this process.

    Raises:
        ConfigError: the isolation asked for cannot be had on this machine.
    """

    def __init__(self, isolation: str = "auto") -> None:
        self.level = choose_level(isolation)
        self._template: WarmTemplate | None = None
        self._judge: SandboxExecutor | None = None
        self._loaded: LoadedRun | None = None
        self._isolation = isolation
        if self.level.name != "kernel":
            # Programs run as this user with this machine's /proc in sight: keep the tests in here out of theirs.
            ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)

    def run(self, code: str, stdin: str, limits: RunLimits) -> RunResult:
        """Run a whole program on one input (``protocols.CodeExecutor``)."""
        return self.attempt(lambda: self._run_once(code, stdin, limits))

    def load(self, code: str, limits: RunLimits, setup: str = "") -> LoadedRun:
        """Run a program's top level and keep it for calls (``protocols.CodeExecutor``)."""
        return LoadedRun(self, code, limits, setup)

    def close(self) -> None:
        """End the template and the script's, if any; safe to call twice."""
        for one in (self._template, self._judge):
            if one is not None:
                one.close()
        self._template = self._judge = None

    def warm(self) -> WarmTemplate:
        """The template, started if there is none.

        Raises:
            TemplateDied: it does not start.
        """
        if self._template is None:
            self._template = WarmTemplate(self.level)
        return self._template

    @property
    def warm_template(self) -> WarmTemplate | None:
        """The template, if one is running."""
        return self._template

    def discard(self) -> None:
        """Throw the template away, and the program it holds loaded; the next run starts another."""
        template, self._template = self._template, None
        if template is not None:
            template.close()
        if self._loaded is not None:
            self._loaded.suspend()

    def make_room(self, program: LoadedRun | None) -> None:
        """The template forks one child at a time: end the loaded program, which its next call will load again."""
        if self._loaded is not None and self._loaded is not program:
            self._loaded.suspend()
        self._loaded = program

    def attempt(self, once: Callable[[], RunResult]) -> RunResult:
        """Do it until the sandbox does not fail, each time with a new template, but not for ever."""
        reason, num_killed = "", 0
        for attempt in range(_MAX_ATTEMPTS):
            try:
                return once()
            except ChildKilled as killed:
                num_killed += 1
                if num_killed > 1:
                    return RunResult(Verdict.CRASH, cpu_s=killed.cpu_s, detail=str(killed))
                self.discard()
            except (TemplateDied, OSError) as error:
                reason = str(error)
                self.discard()
                time.sleep(0.05 * attempt)
        return RunResult(Verdict.INFRASTRUCTURE, detail=f"the sandbox failed {_MAX_ATTEMPTS} times: {reason}")

    def _run_once(self, code: str, stdin: str, limits: RunLimits) -> RunResult:
        self.make_room(None)
        given = _memory_file("stdin", stdin.encode("utf-8", "replace"))
        printed = os.memfd_create("stdout")
        try:
            with Run(self, "stdin", limits, [given, printed]) as run:
                run.send({"code": code})
                message = run.receive()
                end = run.end()
            size = os.fstat(printed).st_size
            if run.failure is None and size >= limits.output_bytes:
                run.fail(Verdict.OUTPUT_LIMIT, f"printed {limits.output_bytes} bytes or more")
            if run.failure is not None:
                return run.result()
            if message is not None and "error" in message:
                return _raised(message, end["cpu_s"])
            if end["status"] != 0:  # os._exit(0) after printing is an end like any other
                return _died(end)
            if end["cpu_s"] > limits.time_limit_s:
                return _late(limits, end["cpu_s"])
            output = os.pread(printed, size, 0) if size else b""
            return RunResult(output=output.decode("utf-8", "replace"), cpu_s=end["cpu_s"])
        finally:
            os.close(given)
            os.close(printed)

    def run_script(
        self,
        script: str,
        code: str,
        limits: RunLimits,
        *,
        setup: str,
        functions: Sequence[str],
        entry_point: str | None,
    ) -> RunResult:
        """Run asserts in one sandbox, the program in another (``protocols.CodeExecutor``).

        The script's side is trusted as far as the data set is; it sees plain values only.
        """
        if self._judge is None:
            self._judge = SandboxExecutor(self._isolation)
        judge = self._judge
        return judge.attempt(
            lambda: self._run_script_once(judge, script, code, limits, setup, list(functions), entry_point)
        )

    def _run_script_once(
        self,
        judge: SandboxExecutor,
        script: str,
        code: str,
        limits: RunLimits,
        setup: str,
        functions: list[str],
        entry_point: str | None,
    ) -> RunResult:
        nonce = secrets.token_hex(16)
        with self.load(code, limits, setup) as program, Run(judge, "script", limits) as run:
            if program.failed is not None:
                return program.failed
            run.send(
                {
                    "setup": setup,
                    "script": script,
                    "functions": functions,
                    "entry_point": entry_point,
                    "nonce": nonce,
                }
            )
            raised: RunResult | None = None
            while True:
                run.restart_clock()
                message = run.receive()
                if message is None:
                    end = run.end()
                    return run.result() if run.failure else _died(end)
                if "passed" in message:
                    run.end()
                    return RunResult(cpu_s=program.cpu_s) if message["passed"] == nonce else RunResult(Verdict.WRONG)
                if "error" in message:
                    if message["error"] != "AssertionError" and raised is not None:
                        return raised
                    return RunResult(Verdict.WRONG, cpu_s=program.cpu_s, detail=_one_line(message))
                result, arguments = program.call_keeping_arguments(message["call"], message["args"], message["kwargs"])
                if result.failure is None:
                    run.send({"value": result.value, "args": arguments})
                elif result.failure is Verdict.CRASH and program.failed is None:
                    raised = result
                    name, _, text = result.detail.partition(": ")
                    run.send({"error": name, "detail": text})
                else:
                    return result


class LoadedRun:
    """A program whose top level has run (``protocols.LoadedProgram``); a context manager."""

    def __init__(self, executor: SandboxExecutor, code: str, limits: RunLimits, setup: str) -> None:
        self._executor, self._limits = executor, limits
        self._source = {"setup": setup, "code": code}
        self._run: Run | None = None
        self.failed: RunResult | None = None
        self.cpu_s = 0.0

    def __enter__(self) -> LoadedRun:
        self.failed = None
        outcome = self._executor.attempt(self._open)
        if outcome.failure is not None:
            self.failed = outcome
        return self

    def __exit__(self, *exc: object) -> None:
        self.suspend()
        self._executor.make_room(None)

    def call(self, function: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> RunResult:
        """Call a function of the program (``protocols.LoadedProgram``)."""
        return self._call(function, args, kwargs, False)[0]

    def call_keeping_arguments(
        self, function: str, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> tuple[RunResult, list[Any]]:
        """:meth:`call`, and the arguments as the function left them."""
        return self._call(function, args, kwargs, True)

    def _open(self) -> RunResult:
        self._executor.make_room(self)
        self.suspend()
        run = self._run = Run(self._executor, "calls", self._limits).__enter__()
        run.send(self._source)
        message = run.receive()
        if message is None:
            self._run = None
            return self._ended(run)
        return _raised(message, run.cpu_s) if "error" in message else RunResult()

    def _call(
        self, function: str, args: Sequence[Any], kwargs: Mapping[str, Any], arguments_too: bool
    ) -> tuple[RunResult, list[Any]]:
        if self.failed is not None:
            return self.failed, []
        nonce = secrets.token_hex(8)
        request: dict[str, Any] = {"nonce": nonce, "function": function, "args": list(args), "kwargs": dict(kwargs)}
        if arguments_too:
            request["arguments_too"] = True
        reply: dict[str, Any] = {}

        def once() -> RunResult:
            if self._run is None:
                opened = self._open()
                if opened.failure is not None:
                    return opened
            run = self._run
            assert run is not None
            run.restart_clock()
            run.send(request)
            message = run.receive()
            if message is None:
                self._run = None  # gone, whatever _ended finds out about how
                self.failed = self._ended(run)
                return self.failed
            reply.clear()
            reply.update(message)
            cpu_s = run.cpu_s
            self.cpu_s += cpu_s
            if message.get("nonce") != nonce:
                self.failed = RunResult(Verdict.CRASH, cpu_s=cpu_s, detail="answered what was not asked")
                return self.failed
            if "error" in message:
                return _raised(message, cpu_s)
            if cpu_s > self._limits.time_limit_s:
                return _late(self._limits, cpu_s)
            check(message.get("value"))
            return RunResult(value=message.get("value"), cpu_s=cpu_s)

        try:
            result = self._executor.attempt(once)
        except ValueRefused as error:
            result = self.failed = RunResult(Verdict.CRASH, detail=f"returned no plain value: {error}")
        arguments = reply.get("args")
        return result, arguments if isinstance(arguments, list) else []

    def _ended(self, run: Run) -> RunResult:
        try:
            end = run.end()
            return run.result() if run.failure is not None else _died(end)
        finally:
            run.__exit__()

    def suspend(self) -> None:
        """End the process; the next call starts another and loads the program again."""
        if self._run is not None:
            run, self._run = self._run, None
            run.__exit__()


class Run:
    """One child of the template, from fork to reaped; a context manager."""

    def __init__(self, executor: SandboxExecutor, mode: str, limits: RunLimits, files: Sequence[int] = ()) -> None:
        self._executor, self._mode, self._limits, self._files = executor, mode, limits, files
        self._template = executor.warm()
        self._end: dict[str, Any] | None = None
        self._pid = 0
        self._started = time.monotonic()
        self._clock_cpu_s = self._clock_starved_s = 0.0
        self._reader = wire.FrameReader(limits.output_bytes)
        self.failure: Verdict | None = None
        self._why = ""

    def __enter__(self) -> Run:
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._channel.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
            limits, level = self._limits, self._template.level
            request = {
                "mode": self._mode,
                "cpu_s": limits.time_limit_s * (1000 if self._mode != "stdin" else 2),
                "memory_bytes": limits.memory_bytes,
                "output_bytes": limits.output_bytes,
                "num_processes": MAX_PROCESSES if level.counts_processes else 0,
            }
            self._number = self._template.begin(request, [theirs.fileno(), *self._files])
        except BaseException:
            self._channel.close()
            raise
        finally:
            theirs.close()
        try:
            self._meet()
        except BaseException:
            self._channel.close()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        try:
            if self._end is None:
                self.end()
        except TemplateDied:
            if self._executor.warm_template is self._template:
                self._executor.discard()
        finally:
            self._channel.close()

    def send(self, message: Any) -> None:
        """Write to the child, which may refuse to read."""
        data: memoryview[int] = memoryview(wire.pack(message))
        self._channel.setblocking(False)
        while len(data):
            try:
                data = data[self._channel.send(data) :]
            except BlockingIOError:
                if not self._wait(writing=True):
                    return
            except (BrokenPipeError, ConnectionResetError):
                return

    def receive(self) -> dict[str, Any] | None:
        """The child's next message, or None where it ended, hit a limit or spoke out of turn (see ``failure``)."""
        while True:
            body = self._reader.next()
            if body is not None:
                message = _message(body)
                if message is None:
                    self.fail(Verdict.CRASH, "wrote to the channel of its answers")
                return message
            if self._reader.is_too_long:
                self.fail(Verdict.OUTPUT_LIMIT, f"returned {self._limits.output_bytes} bytes or more")
                return None
            if self.failure is not None or not self._wait():
                return None
            try:
                data = self._channel.recv(1 << 20)
            except BlockingIOError:
                continue
            except ConnectionResetError:
                return None
            if not data:
                return None
            self._reader.feed(data)

    def restart_clock(self) -> None:
        """Time from here on counts against the limits anew: the next test begins."""
        self._clock_cpu_s = self._total_cpu_s()
        self._clock_starved_s = self._starved_s()
        self._started = time.monotonic()

    @property
    def cpu_s(self) -> float:
        """CPU seconds since the clock was started."""
        return max(0.0, self._total_cpu_s() - self._clock_cpu_s)

    def end(self) -> dict[str, Any]:
        """Wait for the child's end, within its limits when it still runs on its own account, else kill it.

        Raises:
            TemplateDied: the template does not answer.
        """
        if self._end is not None:
            return self._end
        if self._mode == "stdin" and self.failure is None:
            # The last message comes just before the end; a child that closed its channel to run on ends by limit.
            self._wait(channel=False)
        if self._end is None:
            self._template.kill_run()
            self._take_end(_GRACE_S)
        assert self._end is not None
        return self._end

    def fail(self, verdict: Verdict, why: str) -> None:
        """Note why the run cannot count; the first reason stands."""
        if self.failure is None:
            self.failure, self._why = verdict, why

    def result(self) -> RunResult:
        """The failure as a result."""
        return RunResult(self.failure, cpu_s=self._end["cpu_s"] if self._end else self.cpu_s, detail=self._why)

    def _meet(self) -> None:
        """Take the child's first message, and with it the process id the kernel vouches for."""
        self._channel.settimeout(_START_S)
        try:
            data, ancillary, _, _ = self._channel.recvmsg(1 << 16, socket.CMSG_SPACE(_CREDENTIALS.size))
        except OSError as error:
            raise TemplateDied(f"the child did not start: {error}") from None
        for level, kind, body in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_CREDENTIALS:
                self._pid = _CREDENTIALS.unpack(body)[0]
        if not data or not self._pid:
            raise TemplateDied("the child died before it started")
        self._reader.feed(data)
        first = _message(self._reader.next() or b"{}") or {}
        if "started" not in first:
            raise TemplateDied(f"the child could not start: {first.get('broken')}")
        self._channel.setblocking(False)
        self._started = time.monotonic()

    def _wait(self, *, writing: bool = False, channel: bool = True) -> bool:
        """Until the channel can be used (True), or the child ended or hit a limit (False)."""
        poll = select.poll()
        if channel:
            poll.register(self._channel, select.POLLOUT if writing else select.POLLIN)
        poll.register(self._template, select.POLLIN)
        patience_s = 0.0  # what is there already counts, however late this process comes to look
        while True:
            ready = poll.poll(1000 * patience_s)
            if any(fd == self._channel.fileno() for fd, _ in ready):
                return True  # first what it said, then how it ended
            if ready:
                self._take_end(_GRACE_S)
                return False
            cpu_left = self._limits.time_limit_s - self.cpu_s
            wall_left = self._limits.wall_s - (time.monotonic() - self._started)
            if wall_left <= 0:
                wall_left += self._starved_s() - self._clock_starved_s
            if cpu_left <= 0:
                self.fail(Verdict.TIMEOUT, f"used {self._limits.time_limit_s:g} s of CPU")
                return False
            if wall_left <= 0:
                self.fail(Verdict.TIMEOUT, f"took {self._limits.wall_s:g} s ({self.cpu_s:.1f} s of CPU)")
                return False
            patience_s = max(0.001, min(cpu_left, wall_left))

    def _take_end(self, timeout_s: float) -> None:
        while self._end is None:
            message = self._template.receive(timeout_s)
            if message.get("run") == self._number:
                self._end = message
                cgroup = self._template.cgroup
                if message["status"] == -signal.SIGKILL and cgroup is not None and cgroup.has_run_out_of_memory():
                    self.fail(Verdict.MEMORY, "killed by the kernel: out of the memory of its control group")
                if message["residue"]:
                    self._executor.discard()

    def _total_cpu_s(self) -> float:
        """The child's CPU clock; 0 once it is gone (its end then has the sum)."""
        if self._end is not None:
            return float(self._end["cpu_s"])
        try:
            return time.clock_gettime((~self._pid << 3) | 2)  # the kernel's id of a process's CPU clock
        except OSError:
            return self._clock_cpu_s

    def _starved_s(self) -> float:
        """Seconds the child was ready to run and the machine had no core for it; not its fault. 0 where unknown."""
        try:
            with open(f"/proc/{self._pid}/schedstat") as schedstat:
                return int(schedstat.read().split()[1]) / 1e9
        except (OSError, IndexError):
            return 0.0


def _memory_file(name: str, data: bytes) -> int:
    """A sealed memory file at its beginning: the child reads it as a file, and cannot change or grow it."""
    fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
    os.lseek(fd, 0, os.SEEK_SET)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
    return fd


def _message(body: bytes) -> dict[str, Any] | None:
    """One of our messages out of bytes that a program may have forged; None when it cannot be one."""
    try:
        message = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return message if isinstance(message, dict) else None


def _raised(message: Mapping[str, Any], cpu_s: float) -> RunResult:
    verdict = Verdict.MEMORY if message["error"] == "MemoryError" else Verdict.CRASH
    return RunResult(verdict, cpu_s=cpu_s, detail=_one_line(message))


def _late(limits: RunLimits, cpu_s: float) -> RunResult:
    """It ended by itself before this process saw that it was over its limit."""
    return RunResult(Verdict.TIMEOUT, cpu_s=cpu_s, detail=f"used {cpu_s:.2f} s of CPU of {limits.time_limit_s:g} s")


def _one_line(message: Mapping[str, Any]) -> str:
    return " ".join(f"{message['error']}: {message.get('detail', '')}".split())[:300]


def _died(end: Mapping[str, Any]) -> RunResult:
    """The verdict on a run that ended without its last message.

    Raises:
        ChildKilled: it could be our fault.
    """
    status = end["status"]
    if status in (-signal.SIGKILL, -signal.SIGTERM):
        raise ChildKilled(-status, end["cpu_s"])
    if status == -signal.SIGSYS:
        return RunResult(Verdict.FORBIDDEN, cpu_s=end["cpu_s"], detail="made a system call that is not allowed")
    if status == -signal.SIGXCPU:
        return RunResult(Verdict.TIMEOUT, cpu_s=end["cpu_s"], detail="used its CPU seconds")
    what = f"killed by {signal.Signals(-status).name}" if status < 0 else f"left with status {status}"
    return RunResult(Verdict.CRASH, cpu_s=end["cpu_s"], detail=f"{what} before its end")


_executors: dict[tuple[int, str], SandboxExecutor] = {}


def executor_of_this_process(isolation: str = "auto") -> SandboxExecutor:
    """The one executor of this process for ``isolation``, started on first use and closed at exit.

    A forked child gets one of its own: a template belongs to the process that started it.
    """
    key = (os.getpid(), isolation)
    if key not in _executors:
        _executors[key] = SandboxExecutor(isolation)
        atexit.register(_executors[key].close)
    return _executors[key]
