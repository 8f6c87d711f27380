"""The process of one vLLM engine, on this host or on another one: started, talked to, ended.

::

    leader                                  first rank of another host
    VllmEngine -- LocalWorker  -- socket pair ----------------------------------> vllm_worker
    VllmEngine -- RemoteWorker == TCP, secret == WorkerHost hands the socket on => vllm_worker

The worker is the same in both cases and answers to the leader alone. It ends with the process that started it. It gets
an environment of its own: torchrun's variables and the trainer's thread settings would otherwise make vLLM join the
wrong process group or run on one core.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from multiprocessing.context import AuthenticationError
from pathlib import Path
from typing import Protocol

import torch

import nemo_acereason
from nemo_acereason.config.schema import RolloutConfig
from nemo_acereason.errors import EngineError
from nemo_acereason.rollout.placement import EnginePlace
from nemo_acereason.sandbox.secret_link import CONNECT_TIMEOUT_S, SecretLink, listen_at

_OF_THE_TRAINER = (
    *("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE", "MASTER_ADDR"),
    *("ROLE_RANK", "ROLE_NAME", "ROLE_WORLD_SIZE", "MASTER_PORT", "OMP_NUM_THREADS", "MKL_NUM_THREADS"),
    *("CUDA_DEVICE_MAX_CONNECTIONS", "ACEREASON_ENGINE_SECRET"),
)
_OF_THE_TRAINER_PREFIXES = ("TORCHELASTIC_", "TORCHDYNAMO_", "TORCH_NCCL_", "NVTE_", "GOMP_", "KMP_")
_REACH_S = 60.0
"""How long a leader tries to reach another host."""
_GRACE_S = 5.0
"""How long a worker may take to end by itself."""


class Worker(Protocol):
    """What an engine's client needs of its worker."""

    connection: Connection

    def end_status(self) -> int | None:
        """Exit status, negative for a signal, of a worker whose connection is closed; None: nobody knows."""

    def end(self) -> None:
        """End it and every process it started; safe to call twice."""


class LocalWorker:
    """A worker of this host.

    Args:
        config: of the engine.
        place: where on this host.
        log_path: file that takes vLLM's output.
        socket_fd: an open socket to whoever talks to it; -1: a new pair, of which :attr:`connection` is our end.
    """

    connection: Connection

    def __init__(self, config: RolloutConfig, place: EnginePlace, log_path: Path, socket_fd: int = -1) -> None:
        with contextlib.ExitStack() as stack:
            if socket_fd < 0:
                self.connection, theirs = Pipe()
                stack.callback(theirs.close)
                socket_fd = theirs.fileno()
            lifeline_read, self._lifeline = os.pipe()
            stack.callback(os.close, lifeline_read)
            unstarted = stack.enter_context(contextlib.ExitStack())
            unstarted.callback(os.close, self._lifeline)
            log_path.parent.mkdir(parents=True, exist_ok=True)
            log = stack.enter_context(log_path.open("ab"))
            self._process = subprocess.Popen(
                [
                    *(config.python or sys.executable, "-m", "nemo_acereason.rollout.vllm_worker"),
                    *(str(socket_fd), str(lifeline_read)),
                ],
                env=worker_environment(os.environ, config, place),
                pass_fds=(socket_fd, lifeline_read),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            unstarted.pop_all()

    @property
    def pid(self) -> int:
        """Of the worker, which leads a process group of its own."""
        return self._process.pid

    def end_status(self) -> int | None:
        """See :class:`Worker`; its status follows the closed socket by a moment."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_GRACE_S)
        return self._process.poll()

    def end(self) -> None:
        """See :class:`Worker`."""
        if self._lifeline < 0:
            return
        os.close(self._lifeline)
        self._lifeline = -1
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_GRACE_S)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


@dataclass(frozen=True, slots=True)
class _Order:
    """What a leader asks of an :class:`WorkerHost`; the connection it came by is the worker's from then on."""

    config: RolloutConfig
    place: EnginePlace
    log_path: Path


class RemoteWorker:
    """A worker of another host, which its :class:`WorkerHost` starts.

    Raises:
        EngineError: nobody answers there, or not with the secret.
    """

    def __init__(
        self, address: tuple[str, int], secret: bytes, config: RolloutConfig, place: EnginePlace, log_path: Path
    ) -> None:
        deadline = time.monotonic() + _REACH_S
        while True:
            try:
                self._link = SecretLink(socket.create_connection(address, CONNECT_TIMEOUT_S), secret, is_server=False)
                break
            except (OSError, EOFError, AuthenticationError) as error:
                # one at a time is heard there, and a stranger may have been before us
                if isinstance(error, AuthenticationError) or time.monotonic() > deadline:
                    raise EngineError(
                        f"no way to the rollout engines of host {place.host} at {address[0]}: {error!r}; hosts of a "
                        "run must reach each other by TCP"
                    ) from None
                time.sleep(1.0)
        self.connection = self._link.connection
        self._link.send(pickle.dumps(_Order(config, place, log_path)))

    def end_status(self) -> int | None:
        """See :class:`Worker`."""
        return None

    def end(self) -> None:
        """Hang up, upon which it ends."""
        self._link.hang_up()
        self._link.close()


class WorkerHost:
    """Starts workers on this host for the leader on another one; listens as soon as it is made.

    Args:
        secret: proves the leader to us and us to the leader.
        host: this host's address to listen on; the port is any free one.
    """

    def __init__(self, secret: bytes, *, host: str) -> None:
        self._secret = secret
        self._workers: list[LocalWorker] = []
        self._listener = listen_at(host)
        self.address: tuple[str, int] = self._listener.getsockname()[:2]
        self._thread = threading.Thread(target=self._serve, name="engine-host", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the workers; safe to call twice."""
        with contextlib.suppress(OSError):  # closed already
            self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()
        for worker in self._workers:
            worker.end()

    def _serve(self) -> None:
        while True:
            try:
                connected, _ = self._listener.accept()
            except OSError:
                return  # the listener was closed
            try:
                link = SecretLink(connected, self._secret, is_server=True)
            except (AuthenticationError, EOFError, OSError):
                continue  # a stranger
            try:
                self._start(link)
            except Exception:  # the leader hears the closed connection; this log has the reason
                traceback.print_exc()
            finally:
                link.close()  # the worker has its own copy, and the leader hears when that one closes

    def _start(self, link: SecretLink) -> None:
        order: _Order = pickle.loads(link.receive_soon())
        socket_fd = link.connection.fileno()
        self._workers.append(LocalWorker(order.config, order.place, order.log_path, socket_fd))


def worker_environment(environment: Mapping[str, str], config: RolloutConfig, place: EnginePlace) -> dict[str, str]:
    """The worker's environment: the caller's, without what belongs to the trainer."""
    kept = {
        name: value
        for name, value in environment.items()
        if name not in _OF_THE_TRAINER and not name.startswith(_OF_THE_TRAINER_PREFIXES)
    }
    cores = sorted(os.sched_getaffinity(0))
    num_threads = config.num_threads or max(1, len(cores) // place.num_on_host)
    if config.python:  # another environment: nothing of this one may come before its own packages
        for name in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"):
            kept.pop(name, None)
    else:
        package_root = str(Path(nemo_acereason.__file__).parent.parent)
        kept["PYTHONPATH"] = os.pathsep.join(filter(None, [package_root, environment.get("PYTHONPATH", "")]))
    kept |= {
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
    }
    if place.devices:
        kept["CUDA_VISIBLE_DEVICES"] = visible_devices(environment.get("CUDA_VISIBLE_DEVICES"), place.devices)
    if not torch.cuda.is_available():
        # vLLM 0.32 on CPU writes its compiled model to a cache from which it cannot read it back ("no attribute
        # 'finalize_loading'"), and compiles anew at each start; without, PyTorch's own cache halves the time
        kept["VLLM_USE_AOT_COMPILE"] = "0"
    if config.tensor_parallel == 1:
        # the engine core in the worker itself: no second process, no copy of every output
        kept |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "OMP_NUM_THREADS": str(num_threads)}
    else:
        kept["VLLM_CPU_OMP_THREADS_BIND"] = thread_bind(cores[:num_threads], config.tensor_parallel)
    return kept


def num_gpus() -> int:
    """Of this host; a trainer's redirect of CUDA calls to the CPU counts for none."""
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def visible_devices(visible: str | None, own: Sequence[int]) -> str:
    """The engine's own GPUs first, then the host's others: it reads trainer ranks' memory there too.

    Args:
        visible: the caller's ``CUDA_VISIBLE_DEVICES``; None: all.

    >>> visible_devices("4,5,6,7", [2, 3])
    '6,7,4,5'
    """
    names = visible.split(",") if visible else [str(number) for number in range(num_gpus())]
    others = [name for number, name in enumerate(names) if number not in own]
    return ",".join([*(names[number] for number in own), *others])


def thread_bind(cores: Sequence[int], tensor_parallel: int) -> str:
    """vLLM's notation for the cores of each tensor-parallel process.

    >>> thread_bind([0, 1, 2, 3], 2)
    '0,1|2,3'
    """
    share = max(1, len(cores) // tensor_parallel)
    groups = [cores[i * share : (i + 1) * share] or [cores[i % len(cores)]] for i in range(tensor_parallel)]
    return "|".join(",".join(map(str, group)) for group in groups)
