"""Causal attention over a packed row without Transformer Engine: segment by segment through torch's fused kernel.

Stands where Megatron's ``DotProductAttention`` would in its local layer spec. That one refuses packed rows, and with a
mask it would hold all ``T x T`` scores of every head; here memory is linear and no work is spent between segments.
"""

from __future__ import annotations

from typing import Any

import torch
from megatron.core.packed_seq_params import PackedSeqParams
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.transformer_config import TransformerConfig
from torch.nn.functional import scaled_dot_product_attention


class PackedAttention(MegatronModule):  # type: ignore[misc] # megatron has no types
    """Grouped-query attention that never leaves a segment; has no parameters."""

    def __init__(self, config: TransformerConfig, *_: Any, **__: Any) -> None:
        super().__init__(config=config)

    def forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        _: torch.Tensor | None,
        *,
        packed_seq_params: PackedSeqParams,
        **__: Any,
    ) -> torch.Tensor:
        """Attend.

        Args:
            query: [T, heads of this rank, head_dim].
            key: [T, query groups of this rank, head_dim]; ``value`` alike.
            packed_seq_params: the bounds of the segments, all the mask there is.
        Returns:
            [T, heads of this rank, head_dim].
        """
        lengths = packed_seq_params.cu_seqlens_q.diff().tolist()
        is_grouped = query.size(1) != key.size(1)
        by_segment = [torch.split(x.transpose(0, 1), lengths, dim=1) for x in (query, key, value)]
        outputs = [
            scaled_dot_product_attention(q[None], k[None], v[None], is_causal=True, enable_gqa=is_grouped)[0]
            for q, k, v in zip(*by_segment, strict=True)
        ]
        return torch.cat(outputs, dim=1).transpose(0, 1)
