"""A run's rollout engines: all of them rank 0's to talk to, spread over the hosts that have trainer ranks.

Hosts are told apart by their ranks' local numbers: the rank that is 0 there is the first of its host, and starts the
workers of its engines. On one host nothing listens anywhere. Where engines have nodes of their own, those
are the hosts (:mod:`nemo_acereason.launch.engine_node`).
"""

from __future__ import annotations

import ipaddress
import os
import secrets
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.distributed as dist

from nemo_acereason.config.model_arch import ModelArch
from nemo_acereason.config.schema import RolloutConfig
from nemo_acereason.launch.engine_node import EngineNodes, nodes_of_the_launcher
from nemo_acereason.launch.scorer import address_towards
from nemo_acereason.parallel.collectives import from_all_ranks, on_leader
from nemo_acereason.protocols import WeightLink
from nemo_acereason.resharding.ipc_link import CudaIpcLink
from nemo_acereason.resharding.peer_link import PeerLink
from nemo_acereason.resharding.shm_link import SharedMemoryLink
from nemo_acereason.rollout.placement import EnginePlace, place_engines
from nemo_acereason.rollout.worker_process import LocalWorker, RemoteWorker, Worker, WorkerHost, num_gpus


@dataclass
class EngineHosts:
    """Where engines go, and who starts them there."""

    places: list[EnginePlace]
    """Of each engine."""
    host_of_rank: list[int]
    """For each trainer rank the host whose engines it gives weights to; -1: there is none on its host."""
    secret: bytes = field(repr=False)
    addresses: list[tuple[str, int] | None]
    """By host; None: rank 0's own."""
    worker_host: WorkerHost | None = None
    """This rank's, if it is the first of another host."""
    engine_nodes: EngineNodes | None = None
    """On rank 0, where engines have nodes of their own."""

    def start_worker(self, config: RolloutConfig, place: EnginePlace, log_path: Path) -> Worker:
        """On rank 0: the worker of one engine, at its place.

        Raises:
            EngineError: its host cannot be reached.
        """
        address = self.addresses[place.host]
        if address is None:
            return LocalWorker(config, place, log_path)
        return RemoteWorker(address, self.secret, config, place, log_path)

    def close(self) -> None:
        """End what this rank started for rank 0; safe to call twice."""
        if self.worker_host:
            self.worker_host.close()
        if self.engine_nodes:
            self.engine_nodes.end()
            self.engine_nodes = None


def open_hosts(
    config: RolloutConfig,
    *,
    local_rank: int,
    group: dist.ProcessGroup | None = None,
    find_nodes: Callable[[], EngineNodes] = nodes_of_the_launcher,
) -> EngineHosts:
    """Called by all ranks together.

    Args:
        local_rank: of this process on its host, from 0.
        group: all ranks of the trainer; None: the default group.
        find_nodes: with ``config.nodes``, called on rank 0 for those that have engines alone.
    Raises:
        ConfigError: the engines do not fit on the hosts; the same on every rank.
        EngineError: a node for engines did not come.
    """
    if config.nodes:
        return _engine_nodes(config, group, find_nodes)
    secret = on_leader(lambda: secrets.token_bytes(32), group)
    me = dist.get_rank() if dist.is_initialized() else 0
    is_first = local_rank == 0
    facts = from_all_ranks((is_first, num_gpus()), group)
    first_ranks = [rank for rank, (is_first, _) in enumerate(facts) if is_first]
    hosts = [sum(first <= rank for first in first_ranks) - 1 for rank in range(len(facts))]
    places = [EnginePlace()] * config.num_engines  # a process of rank 0's own, whatever it is
    if config.engine == "vllm":
        places = place_engines(config.num_engines, config.tensor_parallel, [facts[rank][1] for rank in first_ranks])
    worker_host = None
    used = {place.host for place in places}
    if is_first and hosts[me] > 0 and hosts[me] in used:
        worker_host = WorkerHost(secret, host=address_towards(os.environ["MASTER_ADDR"]))
    told = from_all_ranks(worker_host.address if worker_host else None, group)
    addresses = [told[rank] for rank in first_ranks]
    return EngineHosts(places, [host if host in used else -1 for host in hosts], secret, addresses, worker_host)


def _engine_nodes(
    config: RolloutConfig, group: dist.ProcessGroup | None, find_nodes: Callable[[], EngineNodes]
) -> EngineHosts:
    """Places on nodes without trainer ranks, once all of them have come."""
    opened: list[EngineNodes] = []

    def open_all() -> list[tuple[tuple[str, int], int]]:
        opened.append(find_nodes())
        return [opened[0].wait_for(number) for number in range(config.nodes)]

    told = on_leader(open_all, group)
    places = place_engines(config.num_engines, config.tensor_parallel, [gpus for _, gpus in told])
    nodes = opened[0] if opened else None
    secret = nodes.secret if nodes else b""
    return EngineHosts(places, [], secret, [address for address, _ in told], engine_nodes=nodes)


def weight_link(
    config: RolloutConfig, arch: ModelArch, host_of_rank: list[int], group: dist.ProcessGroup | None = None
) -> WeightLink:
    """The road on which engines get weights: from the trainer ranks of their host, or over the network.

    FP8 engines take theirs through vLLM's own loaders, which read host memory.

    Args:
        group: all ranks of the trainer, with a backend for host tensors; None: the default group.
    """
    if config.nodes:
        return PeerLink(
            arch,
            engine_tensor_parallel=config.tensor_parallel,
            num_engines=config.num_engines,
            backend="nccl" if torch.cuda.is_available() else "gloo",
            host=leader_host(),
            group=group,
        )
    if torch.cuda.is_available() and config.engine == "vllm" and config.dtype != "fp8":
        return CudaIpcLink(host_of_rank, group=group)
    return SharedMemoryLink(host_of_rank, group=group, fp8=config.dtype == "fp8")


def leader_host() -> str:
    """This machine as nodes of engines reach it: ``ACEREASON_HOST``, else where the trainer's ranks meet.

    A trainer of one node may meet at a loopback address, which says nothing elsewhere: then the host's name, if that
    stands for a better one.
    """
    if named := os.environ.get("ACEREASON_HOST"):
        return named
    master = os.environ["MASTER_ADDR"]
    name = socket.gethostname()
    return name if _is_loopback(master) and not _is_loopback(name) else master


def _is_loopback(host: str) -> bool:
    """Also of a name that stands for nothing."""
    try:
        return ipaddress.ip_address(socket.getaddrinfo(host, None)[0][4][0]).is_loopback
    except OSError:
        return True
