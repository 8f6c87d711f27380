"""How vLLM takes new weights from our shared-memory buffer: a backend of its weight-transfer interface.

vLLM imports this module in each of its worker processes: as the worker extension the engine names, or through the
``vllm.general_plugins`` entry point. Weights go in through vLLM's layerwise reload, so that fused, sharded and (on
CPU) prepacked parameters are rebuilt by vLLM's own loaders. Written for vLLM 0.32; vLLM's names appear here and in
``vllm_worker`` only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead, VocabParallelEmbedding
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload

from nemo_acereason.errors import WeightSyncError
from nemo_acereason.observe.memory import peak_resident_bytes
from nemo_acereason.resharding.receiver import Slot, checksum_of, map_file, tensor_views

BACKEND = "acereason_shm"


@dataclass
class SharedMemoryInit(WeightTransferInitInfo):
    """Nothing to agree on beforehand: every update names its buffer."""


@dataclass
class SharedMemoryUpdate(WeightTransferUpdateInfo):
    """A manifest, field by field (:mod:`nemo_acereason.resharding.receiver`)."""

    version: int
    path: str
    num_bytes: int
    tensors: list[Sequence[Any]] = field(default_factory=list)


class SharedMemoryTransferEngine(WeightTransferEngine[SharedMemoryInit, SharedMemoryUpdate]):
    """Reads the buffer in place; each vLLM worker takes its own shard of every tensor."""

    init_info_cls = SharedMemoryInit
    update_info_cls = SharedMemoryUpdate
    taken: tuple[int, int, str] | None = None
    """Tensors, bytes and checksum of the last update."""

    def init_transfer_engine(self, init_info: SharedMemoryInit) -> None:
        """No rendezvous."""

    def start_weight_update(self) -> None:
        """Put the model back into the form its checkpoint loaders know."""
        # the live model's names: a tied output layer is listed once there, but as a parameter of its own afterwards
        self._wanted = {name for name, _ in self.model.named_parameters()}
        initialize_layerwise_reload(self.model)

    def receive_weights(self, update_info: SharedMemoryUpdate) -> None:
        """Load every tensor of the buffer.

        Raises:
            WeightSyncError: a parameter of the model got no values.
        """
        slots = [Slot(name, dtype, tuple(shape), offset) for name, dtype, shape, offset in update_info.tensors]
        tensors = tensor_views(map_file(update_info.path, update_info.num_bytes, writable=False), slots)
        with torch.no_grad():
            load: Callable[[Iterable[tuple[str, torch.Tensor]]], set[str]] = self.model.load_weights
            loaded = load(tensors.items())
        missed = sorted(self._wanted - set(loaded))
        if missed:
            raise WeightSyncError(f"parameter {missed[0]} of the engine got no new values ({len(missed)} in all)")
        num_bytes = sum(slot.num_bytes for slot in slots)
        self.taken = (len(tensors), num_bytes, checksum_of(tensors, slots, update_info.version))

    def finish_weight_update(self) -> None:
        """Prepack or otherwise process what was loaded, and put it where the running engine reads it."""
        finalize_layerwise_reload(self.model, self.model_config)
        _repack_tied_output(self.model)

    def shutdown(self) -> None:
        """The buffer is mapped for the length of an update only."""


def _repack_tied_output(model: torch.nn.Module) -> None:
    """Let an output layer tied to the embedding prepare its weight again.

    vLLM 0.32 on CPU computes logits from a prepacked copy of the tied weight. No checkpoint tensor belongs to that
    layer, so the layerwise reload passes it by, and logits would stay those of the old embedding.
    """
    heads = [module for module in model.modules() if isinstance(module, ParallelLMHead)]
    embeddings = [m for m in model.modules() if isinstance(m, VocabParallelEmbedding) and m not in heads]
    for head in heads:
        if any(head.weight is embedding.weight for embedding in embeddings):
            head.quant_method.process_weights_after_loading(head)


class RefitWorker:
    """Methods added to each vLLM worker, called through ``collective_rpc``."""

    weight_transfer_engine: SharedMemoryTransferEngine
    device: torch.device

    def acereason_taken(self) -> tuple[int, int, str]:
        """Tensors, bytes and checksum of what this worker read in its last update."""
        taken = self.weight_transfer_engine.taken
        assert taken is not None, "no update yet"
        return taken

    def acereason_peak_memory(self) -> int:
        """Bytes: the highest of this process's resident memory, on a GPU of its allocations there."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        return peak_resident_bytes()


def register() -> None:
    """Make the backend known to vLLM in this process; any number of times."""
    if BACKEND not in WeightTransferEngineFactory._registry:
        WeightTransferEngineFactory.register_engine(BACKEND, SharedMemoryTransferEngine)


register()
