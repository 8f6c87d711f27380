"""The weights of a NeMo model by Hugging Face name: what refits, exports and imports ask of a trainer.

The same plan as our own trainer's (:func:`nemo_acereason.resharding.plan.training_pieces`); knows no file format.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import parallel_state

from nemo_acereason.config.model_arch import ModelArch
from nemo_acereason.nemo.model import megatron_model
from nemo_acereason.parallel.collectives import from_all_ranks
from nemo_acereason.resharding.layout import TrainingLayout
from nemo_acereason.resharding.name_map import hf_shapes
from nemo_acereason.resharding.plan import share_of_owned, training_pieces
from nemo_acereason.trainer.model import uses_transformer_engine
from nemo_acereason.trainer.weights import WeightSource, load_weights


class NemoPolicy:
    """This rank's share; the weight half of :class:`nemo_acereason.protocols.PolicyTrainer`.

    Args:
        slices: NeMo's model, or its several under interleaved pipelines (``trainer.strategy.megatron_parallel``).
        group: all ranks; None: the default group.
    """

    def __init__(self, slices: Sequence[Any], arch: ModelArch, group: dist.ProcessGroup | None = None) -> None:
        models = [megatron_model(one) for one in slices]
        whole = torch.nn.ModuleList(models) if len(models) > 1 else models[0]
        self._parameters = dict(whole.named_parameters())
        self._dtype = next(iter(self._parameters.values())).dtype
        self._arch = arch
        layout = TrainingLayout(
            tp_rank=parallel_state.get_tensor_model_parallel_rank(),
            tp_size=parallel_state.get_tensor_model_parallel_world_size(),
            pp_rank=parallel_state.get_pipeline_model_parallel_rank(),
            pp_size=parallel_state.get_pipeline_model_parallel_world_size(),
            virtual_stages=len(models),
            fused_norms=uses_transformer_engine(),
        )
        self._pieces = training_pieces(arch, layout)
        self._part_of_rank = from_all_ranks((layout.tp_rank, layout.pp_rank), group)

    def load(self, source: WeightSource) -> None:
        """Fill the weights; an optimizer made before does not learn of it."""
        load_weights(self._parameters, self._pieces, source)

    def hf_shards(self, among: Sequence[int] | None = None) -> Iterator[tuple[str, tuple[slice, ...], torch.Tensor]]:
        """As :meth:`nemo_acereason.protocols.PolicyTrainer.hf_shards`, over all ranks together."""
        me = dist.get_rank()
        sharers = [rank for rank, part in enumerate(self._part_of_rank) if part == self._part_of_rank[me]]
        if among is not None:
            sharers = [rank for rank in sharers if rank in among]
        if me not in sharers:
            return
        for piece in share_of_owned(self._pieces, sharers.index(me), len(sharers)):
            yield piece.hf_name, piece.hf_index, self._parameters[piece.local_name].detach()[piece.local_index]

    def hf_tensors(self) -> Mapping[str, tuple[tuple[int, ...], torch.dtype]]:
        """As :meth:`nemo_acereason.protocols.PolicyTrainer.hf_tensors`."""
        return {name: (shape, self._dtype) for name, shape in hf_shapes(self._arch).items()}
