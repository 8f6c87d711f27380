"""Collectives of the loop, each with its process group as an argument.

``on_leader`` is how work that only one rank can do (draw, judge, write) looks the same on every rank: it runs there,
and its result or its exception reaches all. Tensors of the model never pass through here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

import torch.distributed as dist

from nemo_acereason.errors import AceReasonError

Result = TypeVar("Result")


def on_leader(work: Callable[[], Result], group: dist.ProcessGroup | None = None, leader: int = 0) -> Result:
    """Run ``work`` on one rank and return its result on all.

    Args:
        leader: global rank that runs it.
    Raises:
        The exception ``work`` raised, on every rank, so that none waits for another for ever.
    """
    if not dist.is_initialized() or dist.get_world_size(group) == 1:
        return work()
    outcome: list[tuple[Result | None, Exception | None]] = [(None, None)]
    if dist.get_rank() == leader:
        try:
            outcome = [(work(), None)]
        except AceReasonError as error:
            outcome = [(None, error)]
        except Exception as error:
            # an unexpected exception may not survive pickling; its text does, and the leader keeps the traceback
            broadcast_error = AceReasonError(f"{type(error).__name__} on rank {leader}: {error}")
            dist.broadcast_object_list([(None, broadcast_error)], src=leader, group=group)
            raise
    dist.broadcast_object_list(outcome, src=leader, group=group)
    result, failure = outcome[0]
    if failure is not None:
        raise failure
    return result  # type: ignore[return-value]


def barrier(group: dist.ProcessGroup | None = None) -> None:
    """Wait for every rank of the group; nothing to do in a world of one."""
    if dist.is_initialized() and dist.get_world_size(group) > 1:
        dist.barrier(group)


def from_all_ranks(value: Result, group: dist.ProcessGroup | None = None) -> list[Result]:
    """One (picklable) value per rank, in rank order, on every rank."""
    if not dist.is_initialized() or dist.get_world_size(group) == 1:
        return [value]
    values = [value] * dist.get_world_size(group)
    dist.all_gather_object(values, value, group=group)
    return values


def metrics_over_ranks(mine: Iterable[Mapping[str, float]], group: dist.ProcessGroup | None = None) -> dict[str, float]:
    """Each rank's metrics of its microbatches as one: summed, ``max_*`` the largest; equal on every rank."""
    by_name: dict[str, list[float]] = {}
    for of_rank in from_all_ranks(list(mine), group):
        for metrics in of_rank:
            for name, value in metrics.items():
                by_name.setdefault(name, []).append(value)
    return {name: max(values) if name.startswith("max_") else math.fsum(values) for name, values in by_name.items()}


def max_over_ranks(value: int, group: dist.ProcessGroup | None = None) -> int:
    """The largest of one integer per rank, on every rank."""
    return max(from_all_ranks(value, group))
