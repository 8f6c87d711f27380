"""A weight link through one shared-memory buffer: CPU, or trainer and engine on one host.

Every trainer rank copies its own shards straight into their places in a buffer laid out as the Hugging Face
checkpoint; nothing is gathered and no process ever holds the whole model in its heap. The engine maps the same pages.
The buffer has no name in any file system (``memfd``, reached through ``/proc/PID/fd``): neither a crash nor the small
``/dev/shm`` of a container can leave it behind or break it, and it is freed when the last process has ended.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from nemo_acereason.errors import WeightSyncError
from nemo_acereason.parallel.collectives import on_leader
from nemo_acereason.protocols import PolicyTrainer, RolloutEngine
from nemo_acereason.records import Receipt
from nemo_acereason.resharding.receiver import (
    Slot,
    buffer_bytes,
    checksum,
    element_bytes,
    map_file,
    sample_positions,
    slots_in_order,
    tensor_views,
)

Box = tuple[tuple[int, int], ...]
"""Part of a tensor: ``(start, stop)`` of each dim."""


@dataclass
class _Laid:
    """What one rank wrote: for the leader's books."""

    boxes: list[tuple[str, Box]] = field(default_factory=list)
    samples: dict[str, list[tuple[list[int], bytes]]] = field(default_factory=dict)
    """By name: which of the sampled positions lie in this rank's boxes, and their bytes as the trainer holds them."""
    failure: str = ""


class SharedMemoryLink:
    """Implements :class:`nemo_acereason.protocols.WeightLink` over processes of one host.

    Args:
        group: the trainer ranks; None: all of them. Only small Python objects pass through it.
        leader: global rank that owns the engine and the buffer.
    """

    def __init__(self, group: dist.ProcessGroup | None = None, leader: int = 0) -> None:
        self._group = group
        self._leader = leader
        self._version = 0
        self._slots: list[Slot] = []
        self._views: dict[str, torch.Tensor] = {}
        self._descriptor: int | None = None
        self._path = ""
        self._checked: list[list[tuple[str, Box]]] = []

    @property
    def version(self) -> int:
        """Refits delivered so far."""
        return self._version

    def push(self, trainer: PolicyTrainer, engine: RolloutEngine | None) -> Receipt:
        """Lay this rank's shards ready, let the leader's engine take the whole, and compare what arrived.

        Raises:
            WeightSyncError: an element sent by no rank or by two; the engine took something else than was sent, or
                is not one version behind. The same error on every rank.
        """
        tensors = trainer.hf_tensors()
        if not self._views:
            self._open(tensors)
        version = self._version + 1
        laid = self._lay_ready(trainer, version)
        everyone = _gather(laid, self._group, self._leader)
        receipt = on_leader(lambda: self._deliver(everyone, engine, version), self._group, self._leader)
        self._version = receipt.version
        return receipt

    def close(self) -> None:
        """Free the buffer; safe to call twice."""
        self._views = {}
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _open(self, tensors: Mapping[str, tuple[tuple[int, ...], torch.dtype]]) -> None:
        """Make the buffer on the leader and map it on every rank."""
        self._slots = slots_in_order(tensors)
        num_bytes = buffer_bytes(self._slots)

        def create() -> str:
            self._descriptor = os.memfd_create("acereason-weights", os.MFD_CLOEXEC)
            os.truncate(self._descriptor, num_bytes)
            return f"/proc/{os.getpid()}/fd/{self._descriptor}"

        self._path = on_leader(create, self._group, self._leader)
        buffer: mmap.mmap = map_file(self._path, num_bytes, writable=True)
        self._views = tensor_views(buffer, self._slots)

    def _lay_ready(self, trainer: PolicyTrainer, version: int) -> _Laid:
        """Write this rank's shards; an error is kept for the leader, so that no rank is left waiting."""
        laid = _Laid()
        slots = {slot.name: slot for slot in self._slots}
        for name, where, values in trainer.hf_shards():
            slot = slots.get(name)
            if slot is None:
                laid.failure = f"the trainer sent tensor {name}, which its own list of tensors does not have"
                return laid
            box = tuple(part.indices(size)[:2] for part, size in zip(where, slot.shape, strict=True))
            place = self._views[name][where]
            if place.shape != values.shape:
                laid.failure = (
                    f"shard of {name} has shape {list(values.shape)}; its place {box} wants {list(place.shape)}"
                )
                return laid
            place.copy_(values.detach())
            laid.boxes.append((name, box))
            chosen, content = _sampled_inside(slot, box, values, version)
            if chosen:
                laid.samples.setdefault(name, []).append((chosen, content))
        return laid

    def _deliver(self, everyone: Sequence[_Laid], engine: RolloutEngine | None, version: int) -> Receipt:
        """Leader only: check that the buffer is whole, hand it over, and compare the receipt."""
        for rank, laid in enumerate(everyone):
            if laid.failure:
                raise WeightSyncError(f"refit {version}, trainer rank {rank}: {laid.failure}")
        boxes = [laid.boxes for laid in everyone]
        if boxes != self._checked:  # the layout does not change from step to step: checked once
            check_coverage(self._slots, boxes)
            self._checked = boxes
        if engine is None:
            raise WeightSyncError(f"refit {version}: trainer rank {self._leader} leads but was given no engine")
        sent = checksum(self._slots, {slot.name: _joined(slot, everyone) for slot in self._slots})
        receipt = engine.receive_weights(self.manifest(version))
        num_bytes = sum(slot.num_bytes for slot in self._slots)
        for what, got, wanted in (
            ("version", receipt.version, version),
            ("number of tensors", receipt.num_tensors, len(self._slots)),
            ("bytes", receipt.num_bytes, num_bytes),
            ("checksum", receipt.checksum, sent),
        ):
            if got != wanted:
                raise WeightSyncError(f"refit {version}: the engine took {what} {got}; sent was {wanted}")
        return receipt

    def manifest(self, version: int) -> dict[str, Any]:
        """What :func:`nemo_acereason.resharding.receiver.check_manifest` reads: plain data only."""
        return {
            "version": version,
            "path": self._path,
            "num_bytes": buffer_bytes(self._slots),
            "tensors": [(slot.name, slot.dtype, list(slot.shape), slot.offset) for slot in self._slots],
        }


def check_coverage(slots: Sequence[Slot], boxes_by_rank: Sequence[Sequence[tuple[str, Box]]]) -> None:
    """Every element of every tensor sent by exactly one rank, once.

    Raises:
        WeightSyncError: names the tensor, and the ranks where it came twice.
    """
    by_name: dict[str, list[tuple[int, Box]]] = {slot.name: [] for slot in slots}
    for rank, boxes in enumerate(boxes_by_rank):
        for name, box in boxes:
            by_name[name].append((rank, box))
    for slot in slots:
        parts = by_name[slot.name]
        for i, (rank, box) in enumerate(parts):
            for other_rank, other in parts[:i]:
                if all(max(a, c) < min(b, d) for (a, b), (c, d) in zip(box, other, strict=True)):
                    raise WeightSyncError(
                        f"tensor {slot.name}: trainer ranks {other_rank} and {rank} both sent {box}; want every "
                        "element once"
                    )
        num_sent = sum(int(np.prod([stop - start for start, stop in box], dtype=np.int64)) for _, box in parts)
        if num_sent != slot.num_elements:
            raise WeightSyncError(
                f"tensor {slot.name}: {num_sent} of its {slot.num_elements} elements were sent; want all of them"
            )


def _sampled_inside(slot: Slot, box: Box, values: torch.Tensor, version: int) -> tuple[list[int], bytes]:
    """Which of the tensor's sampled positions this shard holds, and their bytes."""
    coordinates = np.unravel_index(sample_positions(slot, version), slot.shape or (1,))
    inside = np.ones(len(coordinates[0]), dtype=bool)
    for along, (start, stop) in zip(coordinates, box, strict=False):
        inside &= (along >= start) & (along < stop)
    chosen = np.flatnonzero(inside)
    if not len(chosen):
        return [], b""
    index = tuple(torch.from_numpy(along[chosen] - start) for along, (start, _) in zip(coordinates, box, strict=False))
    return chosen.tolist(), element_bytes(values, index, slot.torch_dtype)


def _joined(slot: Slot, everyone: Sequence[_Laid]) -> bytes:
    """The sampled elements of a tensor in order of position, put together from all ranks."""
    size = slot.torch_dtype.itemsize
    elements: dict[int, bytes] = {}
    for laid in everyone:
        for chosen, content in laid.samples.get(slot.name, ()):
            for i, position in enumerate(chosen):
                elements[position] = content[i * size : (i + 1) * size]
    return b"".join(elements[position] for position in sorted(elements))


def _gather(laid: _Laid, group: dist.ProcessGroup | None, leader: int) -> list[_Laid]:
    """Every rank's books, on the leader; also the barrier after which the buffer is whole."""
    if not dist.is_initialized() or dist.get_world_size(group) == 1:
        return [laid]
    books: list[Any] | None = [None] * dist.get_world_size(group) if dist.get_rank() == leader else None
    dist.gather_object(laid, books, dst=leader, group=group)
    return books or []
