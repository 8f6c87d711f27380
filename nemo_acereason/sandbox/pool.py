"""The reward pool: warm worker processes that judge samples as they leave the engine.

Each worker slot is one thread here that owns one process of :mod:`nemo_acereason.sandbox.reward_worker`: it starts
it, hands it a sample, waits no longer than the limit, kills and replaces it where that is needed. A limit is
therefore a killed process: it holds whatever thread submits, and against loops in C. The pool knows nothing of what a
reward function does; isolation of untrusted programs is that function's own
(:mod:`nemo_acereason.sandbox.code_reward`).
"""

from __future__ import annotations

import collections
import contextlib
import itertools
import json
import os
import pickle
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

from nemo_acereason.config.schema import RewardConfig
from nemo_acereason.errors import AceReasonError, ConfigError
from nemo_acereason.observe.memory import peak_resident_bytes
from nemo_acereason.records import Prompt, Sample, Score, Verdict
from nemo_acereason.sandbox.reward_worker import read_frame, write_frame

MAX_ATTEMPTS = 6
"""Workers that may die under one sample before it is called our failure."""
MAX_STARTS = 5
"""Workers that may die in a row before they have judged anything."""
START_TIMEOUT_S = 120.0
"""Longest import of a reward function's module: sympy from a cold, slow disk is far below it."""


class _WorkerDied(Exception):
    """The process ended or closed its pipe."""


class _WorkerLate(Exception):
    """No answer within the limit."""


class _Worker:
    """One process and its two pipes. Used by one thread only: the kernel kills it when that thread ends."""

    def __init__(self, memory_bytes: int, cores: Collection[int] = ()) -> None:
        request_read, self._requests = os.pipe()
        self._answers, answer_write = os.pipe()
        command = [sys.executable, "-m", "nemo_acereason.sandbox.reward_worker"]
        command += [str(value) for value in (request_read, answer_write, memory_bytes, os.getpid())]
        search_path = os.pathsep.join(path or os.getcwd() for path in sys.path)
        environment = {**os.environ, "PYTHONPATH": search_path, "OMP_NUM_THREADS": "1"}
        try:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                pass_fds=(request_read, answer_write),
                env=environment,
                start_new_session=True,
            )
        except OSError:
            os.close(self._requests)
            os.close(self._answers)
            raise
        finally:
            os.close(request_read)
            os.close(answer_write)
        if cores:  # what the worker starts inherits them
            os.sched_setaffinity(self.process.pid, cores)

    def ask(self, request: bytes, timeout_s: float) -> dict[str, Any]:
        try:
            write_frame(self._requests, request)
            poll = select.poll()
            poll.register(self._answers, select.POLLIN)
            if not poll.poll(timeout_s * 1000.0):
                raise _WorkerLate
            answer = read_frame(self._answers)
        except OSError as error:
            raise _WorkerDied from error
        if answer is None:
            raise _WorkerDied
        return json.loads(answer)  # type: ignore[no-any-return]

    def load(self, function: str) -> dict[str, Any]:
        """Import a reward function now, so that no sample's limit pays for it."""
        return self.ask(pickle.dumps(("load", function, {}, None, None)), START_TIMEOUT_S)

    def end(self) -> None:
        """Kill its process group, reap it, close the pipes."""
        with contextlib.suppress(ProcessLookupError):  # it is gone already
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        os.close(self._requests)
        os.close(self._answers)


@dataclass
class _Job:
    key: tuple[int, int]
    function: str
    request: bytes
    timeout_s: float
    attempts: int = 0
    twins: list[tuple[int, int]] = field(default_factory=list)
    """Keys of identical submissions, answered with this one."""


class RewardPool:
    """Judges samples with a named reward function in ``num_workers`` processes; a :class:`protocols.Scorer`.

    Args:
        reward: what :meth:`submit` judges with until :meth:`use` says otherwise.
        num_workers: processes.
        timeout_s: wall seconds one sample may take before its worker is killed and it is called ``timeout``.
        memory_bytes: address space of one worker; 0: unlimited.
        cores: of this machine that workers and their programs may use; empty: all.
        on_score: told every score as it is known, from any thread, before :meth:`collect` returns it; must not raise.

    Raises:
        ConfigError: the reward function cannot be imported.
    """

    def __init__(
        self,
        reward: RewardConfig,
        *,
        num_workers: int = 2,
        timeout_s: float = 10.0,
        memory_bytes: int = 4 << 30,
        cores: Collection[int] = (),
        on_score: Callable[[tuple[int, int], Score], None] | None = None,
    ) -> None:
        self.num_workers = num_workers
        self.timeout_s = timeout_s
        self._memory_bytes = memory_bytes
        self._cores = cores
        self._on_score = on_score
        self._lock = threading.Condition()
        self._queue: collections.deque[_Job] = collections.deque()
        self._first_of: dict[tuple[Any, ...], _Job] = {}
        self._open_keys: set[tuple[int, int]] = set()
        self._scores: dict[tuple[int, int], Score] = {}
        self._closed = False
        self._error_was_printed = False
        self._pids: set[int] = set()
        self.num_workers_replaced = 0
        """Workers that died or were killed, over the life of the pool."""
        self._check_can_load(reward)
        self.use(reward)
        self._threads = [
            threading.Thread(target=self._serve, name=f"reward-slot-{index}", daemon=True)
            for index in range(num_workers)
        ]
        for thread in self._threads:
            thread.start()

    def use(self, reward: RewardConfig, *, timeout_s: float | None = None) -> None:
        """Judge what is submitted from now on with another reward (a new stage, an evaluation)."""
        self.reward = reward
        if timeout_s is not None:
            self.timeout_s = timeout_s

    def submit(self, prompt: Prompt, sample: Sample, key: tuple[int, int]) -> None:
        """Begin to judge; returns at once. ``key`` is any pair that is not under way already."""
        function, options = self.reward.function, dict(self.reward.options)
        identity = identity_of(self.reward, prompt, sample)
        known: Score | None = None
        with self._lock:
            assert not self._closed, "submit on a closed pool"
            assert key not in self._open_keys, f"key {key} is under way already"
            self._open_keys.add(key)
            first = self._first_of.get(identity)
            if first is None:
                request = pickle.dumps(("judge", function, options, prompt, sample), pickle.HIGHEST_PROTOCOL)
                job = _Job(key, function, request, self.timeout_s)
                self._first_of[identity] = job
                self._queue.append(job)
                self._lock.notify()
            elif first.key in self._scores:
                known = self._scores[key] = self._scores[first.key]
                self._lock.notify_all()
            else:
                first.twins.append(key)
        if known is not None and self._on_score:
            self._on_score(key, known)

    @property
    def num_open(self) -> int:
        """Samples that are submitted and not yet judged."""
        with self._lock:
            return len(self._open_keys) - len(self._scores)

    def collect(self) -> dict[tuple[int, int], Score]:
        """Wait for everything submitted since the last call and return it by key."""
        with self._lock:
            self._lock.wait_for(lambda: len(self._scores) == len(self._open_keys) or self._closed)
            if self._closed and len(self._scores) != len(self._open_keys):
                raise AceReasonError("reward pool was closed while samples were under way; collect before close")
            scores, self._scores = self._scores, {}
            self._open_keys.clear()
            self._first_of.clear()
        return scores

    def peak_memory_bytes(self) -> int:
        """Highest resident memory of any one worker that lives; programs under test are not counted."""
        with self._lock:
            pids = list(self._pids)
        return max((peak_resident_bytes(pid) for pid in pids), default=0)

    def close(self) -> None:
        """End its workers; safe to call twice."""
        with self._lock:
            self._closed = True
            self._lock.notify_all()
        for thread in self._threads:
            thread.join()

    def __enter__(self) -> RewardPool:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _check_can_load(self, reward: RewardConfig) -> None:
        """Import the function once in a worker, so that a wrong name is found before anything runs."""
        worker = _Worker(self._memory_bytes, self._cores)
        try:
            answer = worker.load(reward.function)
        except (_WorkerDied, _WorkerLate) as error:
            raise ConfigError(
                f"reward {reward.function} ended its worker while it was imported; import it in a shell to see why"
            ) from error
        finally:
            worker.end()
        if "error" in answer:
            raise ConfigError(
                f"reward {reward.function} cannot be imported: {answer['error']}; wanted module:function on the path"
            )

    def _serve(self) -> None:
        """One slot: take a job, have the worker judge it, replace the worker when it dies."""
        worker: _Worker | None = None
        try:
            with contextlib.suppress(OSError, _WorkerDied, _WorkerLate):  # a job will tell, if it is asked to
                worker = self._start_worker(self.reward.function)
            while (job := self._next_job()) is not None:
                if worker is not None and worker.process.poll() is not None:  # killed while idle: not this job's doing
                    self._end(worker)
                    worker = None
                job.attempts += 1
                try:
                    worker, score = self._judge(worker, job)
                except Exception as error:  # a slot that ended here would let collect() wait for ever
                    if worker is not None:
                        self._end(worker)
                    worker, score = None, _infrastructure(f"{type(error).__name__}: {error}")
                if score is None:
                    with self._lock:
                        self._queue.appendleft(job)
                        self._lock.notify()
                else:
                    self._finish(job, score)
        finally:
            if worker is not None:
                worker.end()

    def _judge(self, worker: _Worker | None, job: _Job) -> tuple[_Worker | None, Score | None]:
        """The worker to go on with and the score, or no score where the job is to be tried again."""
        start = time.perf_counter()
        is_last = job.attempts >= MAX_ATTEMPTS
        try:
            worker = worker or self._start_worker(job.function)
        except (OSError, _WorkerDied, _WorkerLate) as error:
            return None, _infrastructure(f"no worker could be started: {error!r}")
        try:
            answer = worker.ask(job.request, job.timeout_s)
        except _WorkerLate:
            detail = f"no verdict within {job.timeout_s:g} s"
            self._end(worker)
            return None, Score.of(Verdict.TIMEOUT, time.perf_counter() - start, detail)
        except _WorkerDied:
            self._end(worker)
            return None, _infrastructure(f"worker died with status {worker.process.returncode}") if is_last else None
        if "memory" in answer:
            # A worker that has grown over many samples is not this sample's fault: a fresh one decides.
            score = Score.of(Verdict.MEMORY, answer["seconds"], f"over {self._memory_bytes >> 20} MiB")
            self._end(worker)
            return None, score if job.attempts > 1 else None
        if "error" in answer:
            self._print_first_error(answer["traceback"])
            return worker, _infrastructure(answer["error"], answer["seconds"])
        return worker, Score(Verdict(answer["verdict"]), answer["reward"], answer["seconds"], answer["detail"])

    def _start_worker(self, function: str) -> _Worker:
        """A fresh worker with the function imported; an import that raises is told by its first sample.

        Raises:
            OSError, _WorkerDied, _WorkerLate: none could be started, ``MAX_STARTS`` times.
        """
        for attempt in itertools.count(1):
            worker = _Worker(self._memory_bytes, self._cores)
            try:
                worker.load(function)
            except (_WorkerDied, _WorkerLate):
                self._end(worker)
                if attempt == MAX_STARTS:
                    raise
            else:
                with self._lock:
                    self._pids.add(worker.process.pid)
                return worker
        raise AssertionError("unreachable")

    def _next_job(self) -> _Job | None:
        with self._lock:
            self._lock.wait_for(lambda: bool(self._queue) or self._closed)
            return None if self._closed else self._queue.popleft()

    def _finish(self, job: _Job, score: Score) -> None:
        with self._lock:
            keys = (job.key, *job.twins)
            self._scores |= dict.fromkeys(keys, score)
            self._lock.notify_all()
        if self._on_score:
            for key in keys:
                self._on_score(key, score)

    def _end(self, worker: _Worker) -> None:
        """End a worker that another is to replace."""
        worker.end()
        with self._lock:
            self._pids.discard(worker.process.pid)
            self.num_workers_replaced += 1

    def _print_first_error(self, text: str) -> None:
        with self._lock:
            if self._error_was_printed:
                return
            self._error_was_printed = True
        print(f"a reward function raised; the sample is left out of the step:\n{text}", file=sys.stderr)


def identity_of(reward: RewardConfig, prompt: Prompt, sample: Sample) -> tuple[Any, ...]:
    """Samples of one step that are equal in this get one verdict: they are judged once."""
    options = repr(dict(reward.options))
    asked = prompt.prompt_id, prompt.problem, repr(prompt.reference)
    return reward.function, options, *asked, sample.text, sample.finish_reason, sample.token_ids


def _infrastructure(detail: str, seconds: float = 0.0) -> Score:
    return Score.of(Verdict.INFRASTRUCTURE, seconds, detail)
