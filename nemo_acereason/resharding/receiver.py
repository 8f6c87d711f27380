"""The receiving side of a weight link: what a manifest must say, reading the buffer it names, and the checksum.

A manifest is plain data that one trainer rank hands to the engine: which tensors lie where in one shared buffer, in
Hugging Face names and layout. This module maps and reads that buffer; how an engine then takes the tensors in is the
engine's business, and filling the buffer is :mod:`nemo_acereason.resharding.shm_link`'s.
"""

from __future__ import annotations

import mmap
import os
import warnings
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from nemo_acereason.errors import WeightSyncError

ALIGNMENT_BYTES = 64
"""Every tensor starts at a multiple of this: one cache line, and aligned for any dtype."""
SAMPLES_PER_TENSOR = 64
"""Elements per tensor that enter the checksum; other ones in every version. A rank that holds an eighth of a tensor
and did not write it goes unseen with probability (7/8)^64 = 2e-4 per tensor, over the hundreds of tensors never."""


@dataclass(frozen=True, slots=True)
class Slot:
    """Where one tensor lies in the buffer.

    >>> Slot("model.norm.weight", "float32", (128,), 4096).num_bytes
    512
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    """Bytes from the start of the buffer."""

    @property
    def torch_dtype(self) -> torch.dtype:
        """``dtype`` as torch has it."""
        return getattr(torch, self.dtype)  # type: ignore[no-any-return]

    @property
    def num_elements(self) -> int:
        """Elements of the whole tensor."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def num_bytes(self) -> int:
        """Bytes of the whole tensor."""
        return self.num_elements * self.torch_dtype.itemsize


def slots_in_order(tensors: Mapping[str, tuple[tuple[int, ...], torch.dtype]]) -> list[Slot]:
    """Lay tensors out one after the other, each at a multiple of :data:`ALIGNMENT_BYTES`."""
    slots: list[Slot] = []
    offset = 0
    for name, (shape, dtype) in tensors.items():
        slots.append(Slot(name, str(dtype).removeprefix("torch."), tuple(shape), offset))
        offset += -(-slots[-1].num_bytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
    return slots


def buffer_bytes(slots: Sequence[Slot]) -> int:
    """Size of the buffer that holds ``slots``; at least one byte, for nothing can be mapped from an empty file."""
    return max((slot.offset + slot.num_bytes for slot in slots), default=1) or 1


def check_manifest(
    manifest: Mapping[str, Any], wanted: Mapping[str, tuple[int, ...]], engine_version: int
) -> list[Slot]:
    """What the manifest brings, after a check that this is all the engine needs, once, and is the next version.

    Args:
        wanted: shape of every tensor the engine needs, by Hugging Face name.
        engine_version: refits the engine has received.
    Raises:
        WeightSyncError: a version skipped or repeated; a tensor missing, unexpected, doubled or of another shape.
    """
    if manifest["version"] != engine_version + 1:
        raise WeightSyncError(
            f"weights of version {manifest['version']} pushed to an engine at version {engine_version}; want version "
            f"{engine_version + 1}: a refit was skipped or repeated"
        )
    slots = [Slot(name, dtype, tuple(shape), offset) for name, dtype, shape, offset in manifest["tensors"]]
    seen: set[str] = set()
    for slot in slots:
        if slot.name in seen:
            raise WeightSyncError(f"tensor {slot.name} came twice in one refit; want every tensor once")
        seen.add(slot.name)
        if slot.name not in wanted:
            raise WeightSyncError(f"tensor {slot.name} came, but the engine's model has none of that name")
        if slot.shape != tuple(wanted[slot.name]):
            raise WeightSyncError(
                f"tensor {slot.name} came with shape {list(slot.shape)}; the engine's model wants "
                f"{list(wanted[slot.name])}"
            )
    missing = [name for name in wanted if name not in seen]
    if missing:
        raise WeightSyncError(
            f"tensor {missing[0]} did not come ({len(missing)} of {len(wanted)} missing); the engine needs every one"
        )
    return slots


def map_file(path: str, num_bytes: int, *, writable: bool) -> mmap.mmap:
    """Map a shared buffer into this process.

    Raises:
        WeightSyncError: it is not there: its owner has ended, or runs on another host.
    """
    try:
        descriptor = os.open(path, (os.O_RDWR if writable else os.O_RDONLY) | os.O_CLOEXEC)
    except OSError as error:
        raise WeightSyncError(
            f"the weight buffer {path} cannot be opened ({error.strerror}); the trainer that owns it must be alive, "
            "on this host and of the same user"
        ) from None
    try:
        return mmap.mmap(descriptor, num_bytes, access=mmap.ACCESS_WRITE if writable else mmap.ACCESS_READ)
    finally:
        os.close(descriptor)


def tensor_views(buffer: mmap.mmap, slots: Iterable[Slot]) -> dict[str, torch.Tensor]:
    """Tensors that lie in the buffer, without a copy; the buffer stays mapped while any of them lives."""
    views: dict[str, torch.Tensor] = {}
    with warnings.catch_warnings():
        # a read-only mapping is what we want here; torch warns because it cannot keep others from writing
        warnings.filterwarnings("ignore", message="The given buffer is not writable")
        for slot in slots:
            flat = torch.frombuffer(buffer, dtype=slot.torch_dtype, count=slot.num_elements, offset=slot.offset)
            views[slot.name] = flat.view(slot.shape)
    return views


def sample_positions(slot: Slot, version: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Flat indices of the elements of a tensor that enter the checksum of this version, ascending."""
    if slot.num_elements <= SAMPLES_PER_TENSOR:
        return np.arange(slot.num_elements, dtype=np.int64)
    seed = zlib.crc32(f"{slot.name}:{version}".encode())
    positions = np.random.Generator(np.random.PCG64(seed)).integers(slot.num_elements, size=SAMPLES_PER_TENSOR)
    return np.unique(positions)


def element_bytes(tensor: torch.Tensor, index: tuple[torch.Tensor, ...], dtype: torch.dtype) -> bytes:
    """The chosen elements of a tensor, as raw bytes of ``dtype``."""
    return tensor.detach()[index].to(dtype).reshape(-1).contiguous().cpu().view(torch.uint8).numpy().tobytes()


def checksum(slots: Iterable[Slot], sampled: Mapping[str, bytes]) -> str:
    """One number, as 8 hex digits, over names, dtypes, shapes and the sampled elements, in the buffer's order."""
    value = 0
    for slot in slots:
        value = zlib.crc32(f"{slot.name}:{slot.dtype}:{slot.shape}".encode(), value)
        value = zlib.crc32(sampled[slot.name], value)
    return f"{value:08x}"


def checksum_of(tensors: Mapping[str, torch.Tensor], slots: Sequence[Slot], version: int) -> str:
    """The checksum of whole tensors as a receiver sees them."""
    sampled = {}
    for slot in slots:
        position = torch.from_numpy(sample_positions(slot, version))
        sampled[slot.name] = element_bytes(tensors[slot.name].reshape(-1), (position,), slot.torch_dtype)
    return checksum(slots, sampled)
