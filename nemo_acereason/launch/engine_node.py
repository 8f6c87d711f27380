"""A node of a run that has engines alone: ``python -m nemo_acereason.launch.engine_node RUN_DIR``.

Started by our own launcher beside the trainer ranks of the other nodes. It finds rank 0 through the store that torch's
process group was made with, starts vLLM workers when rank 0 asks for them, and ends when rank 0 does.
"""

from __future__ import annotations

import argparse
import datetime
import os
import signal
import sys
import traceback
from collections.abc import Callable
from typing import NoReturn

from torch._C._distributed_c10d import TCPStore

from nemo_acereason.errors import ConfigError, EngineError
from nemo_acereason.launch.node_ranks import ENGINE_SECRET
from nemo_acereason.launch.scorer import address_towards
from nemo_acereason.launch.watchdog import Pulse
from nemo_acereason.rollout.worker_process import WorkerHost, num_gpus
from nemo_acereason.sandbox.lifetime import die_with_parent

WAIT = datetime.timedelta(hours=1)
"""Longest for the trainer and the nodes of its engines to find each other."""
_LONGEST_RUN = datetime.timedelta(days=365)
_ADDRESS, _END = "acereason/engines/{}", "acereason/engines/end"


class EngineNodes:
    """Rank 0's view of the nodes that have engines alone; they are known by their number, from 0.

    Args:
        secret: which both sides prove to know; the store, which anybody may read, never has it.
        store: where the nodes tell their addresses.
        on_end: called when they are let go.
    """

    def __init__(self, secret: bytes, store: TCPStore, on_end: Callable[[], None] = lambda: None) -> None:
        self.secret = secret
        self._store = store
        self._on_end = on_end

    def wait_for(self, number: int) -> tuple[tuple[str, int], int]:
        """The address at which a node starts engines, and how many GPUs it has.

        Raises:
            EngineError: it did not come within the store's time.
        """
        key = _ADDRESS.format(number)
        try:
            self._store.wait([key])
        except RuntimeError as error:
            raise EngineError(f"engine node {number} did not come: {' '.join(str(error).split())[:200]}") from None
        host, port, gpus = self._store.get(key).decode().rsplit(" ", 2)
        return (host, int(port)), int(gpus)

    def end(self) -> None:
        """Let them go."""
        self._store.set(_END, "1")
        self._on_end()


def nodes_of_the_launcher() -> EngineNodes:
    """Those that our own launcher started beside this trainer.

    Raises:
        ConfigError: nothing started them.
    """
    return EngineNodes(take_secret(), store_at(*_rank_0_address(), WAIT))


def take_secret() -> bytes:
    """The launcher's, which leaves the environment with it.

    Raises:
        ConfigError: our own launcher did not start this process.
    """
    secret = os.environ.pop(ENGINE_SECRET, "")
    if not secret:
        raise ConfigError("rollout.nodes needs a run that `acereason submit` or its launcher started; use 0 elsewhere")
    return bytes.fromhex(secret)


def serve(number: int, secret: bytes, store: TCPStore) -> None:
    """Start what rank 0 asks for, until it says to end or is gone."""
    host = start_host(number, secret, store)
    try:
        wait_for_end(store)
    finally:
        host.close()


def start_host(number: int, secret: bytes, store: TCPStore) -> WorkerHost:
    """Be ready for what rank 0 asks for, and tell it where."""
    host = WorkerHost(secret, host=address_towards(store.host))
    try:
        name, port = host.address
        store.set(_ADDRESS.format(number), f"{name} {port} {num_gpus()}")
    except BaseException:
        host.close()
        raise
    return host


def claim(store: TCPStore, number: int) -> bool:
    """Whether this process is the first that wants to be ``number`` for this trainer."""
    return bool(store.add(f"{_ADDRESS.format(number)}/claims", 1) == 1)


def wait_for_end(store: TCPStore) -> None:
    """Return when rank 0 says to end or is gone."""
    try:
        store.wait([_END], _LONGEST_RUN)
    except RuntimeError as error:  # torch's of a lost store: the launcher knows how rank 0 ended
        print(f"the connection to rank 0 is gone: {' '.join(str(error).split())[:200]}", file=sys.stderr)


def store_at(host: str, port: int, timeout: datetime.timedelta) -> TCPStore:
    """A connection of our own to the store that rank 0 of a trainer keeps; waits for it."""
    return TCPStore(host, port, is_master=False, wait_for_workers=False, timeout=timeout)


def _rank_0_address() -> tuple[str, int]:
    return os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])


def main() -> NoReturn:
    """Exit status 0, also where rank 0 is gone; 1 and the reason told where this node could not serve."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run_dir")
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("--pipe", type=int, required=True)
    parser.add_argument("--last", default="", help="as for the trainer ranks, which alone it concerns")
    arguments = parser.parse_args()
    die_with_parent(arguments.parent)
    for sent in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(sent, signal.SIG_IGN)  # as in a rank: it serves while that saves
    pulse = Pulse(arguments.pipe)
    pulse.enter("", 0)  # it waits, however long that takes
    status = 0
    try:
        number = int(os.environ["RANK"]) - int(os.environ["WORLD_SIZE"])
        serve(number, take_secret(), store_at(*_rank_0_address(), WAIT))
    except Exception as error:
        status = 1
        traceback.print_exc()
        told = f"engines of this node: {type(error).__name__}: {' '.join(str(error).split())[:300]}"
        pulse.tell_end(told, status, is_known=False)
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    main()
