"""Causal attention over a packed row without Transformer Engine: segment by segment through torch's fused kernel.

Stands where Megatron's ``DotProductAttention`` would in its local layer spec. That one refuses packed rows, and with a
mask it would hold all ``T x T`` scores of every head; here memory is linear and no work is spent between segments.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from megatron.core.packed_seq_params import PackedSeqParams
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.transformer_config import TransformerConfig


class PackedAttention(MegatronModule):
    """Grouped-query attention that never leaves a segment; has no parameters."""

    def __init__(self, config: TransformerConfig, *args: Any, **kwargs: Any) -> None:
        super().__init__(config=config)

    def forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        *,
        packed_seq_params: PackedSeqParams,
        **kwargs: Any,
    ) -> torch.Tensor:
        """Attend.

        Args:
            query: [T, heads of this rank, head_dim].
            key: [T, query groups of this rank, head_dim]; ``value`` alike.
            attention_mask: unused, the segments say it all.
        Returns:
            [T, heads of this rank, head_dim].
        """
        lengths = packed_seq_params.cu_seqlens_q.diff().tolist()
        is_grouped = query.size(1) != key.size(1)
        outputs = [
            F.scaled_dot_product_attention(q[None], k[None], v[None], is_causal=True, enable_gqa=is_grouped)[0]
            for q, k, v in zip(*(x.transpose(0, 1).split(lengths, dim=1) for x in (query, key, value)), strict=True)
        ]
        return torch.cat(outputs, dim=1).transpose(0, 1)
