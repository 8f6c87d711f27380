"""The reward pool of a run: one on each node that has trainer ranks, all judging for rank 0.

Nodes are told apart by their ranks' local numbers: the rank that is 0 there is the first of its node. On one node this
is a plain :class:`RewardPool`, and nothing listens anywhere.
"""

from __future__ import annotations

import os
import secrets
import socket
import sys
from multiprocessing.context import AuthenticationError

import torch.distributed as dist

from nemo_acereason.config.schema import RewardConfig, RewardPoolConfig
from nemo_acereason.errors import AceReasonError, ConfigError
from nemo_acereason.parallel.collectives import from_all_ranks, on_leader
from nemo_acereason.sandbox.pool import RewardPool
from nemo_acereason.sandbox.remote_pool import PoolServer, RemotePool, SpreadPool


def start_scorer(
    config: RewardPoolConfig, reward: RewardConfig, *, local_rank: int, group: dist.ProcessGroup | None = None
) -> tuple[RewardPool | SpreadPool | None, PoolServer | None]:
    """Called by all ranks together: what judges on rank 0, the server on the first rank of every other node.

    Args:
        reward: what the workers import at the start.
        local_rank: of this process on its node, from 0.
        group: all ranks of the trainer; None: the default group.
    Raises:
        ConfigError: the reward function cannot be imported on one of the nodes; the same on every rank.
    """
    secret = on_leader(lambda: secrets.token_bytes(32), group)
    is_leader = not dist.is_initialized() or dist.get_rank() == 0
    memory_bytes = int(config.memory_gib * 2**30)
    local: RewardPool | None = None
    server: PoolServer | None = None
    failure: AceReasonError | OSError | None = None
    cores = set(config.cores)
    try:
        if absent := cores - os.sched_getaffinity(0):
            raise ConfigError(
                f"reward_pool.cores names {min(absent)}, which {socket.gethostname()} does not have or give; "
                f"use some of {', '.join(map(str, sorted(os.sched_getaffinity(0))))}"
            )
        if is_leader:
            local = RewardPool(reward, num_workers=config.num_workers, memory_bytes=memory_bytes, cores=cores)
        elif local_rank == 0:
            host = address_towards(os.environ["MASTER_ADDR"])
            server = PoolServer(
                reward, secret, host=host, num_workers=config.num_workers, memory_bytes=memory_bytes, cores=cores
            )
    except (AceReasonError, OSError) as error:
        failure = error
    told = from_all_ranks((server.address if server else None, failure), group)
    failures = [error for _, error in told if error]
    if failures:
        for pool in (local, server):
            if pool:
                pool.close()
        raise failures[0]
    addresses = [address for address, _ in told if address]
    if local is None or not addresses:
        return local, server
    connected = [_connect(address, secret, config.num_workers) for address in addresses]
    return SpreadPool(local, [pool for pool in connected if pool]), None


def address_towards(host: str) -> str:
    """The address of this machine from which it reaches ``host``; nothing is sent."""
    family, kind, protocol, _, target = socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.connect(target)
        return str(probe.getsockname()[0])


def _connect(address: tuple[str, int], secret: bytes, num_workers: int) -> RemotePool | None:
    try:
        return RemotePool(address, secret, num_workers=num_workers)
    except (OSError, EOFError, AuthenticationError) as error:
        print(f"no way to the reward pool on {address[0]}: {error!r}; the other nodes judge", file=sys.stderr)
        return None
