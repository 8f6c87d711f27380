"""Forward and backward pass of one step's packed rows through Megatron's schedules.

Gradients are plain sums over microbatches and data-parallel ranks: each row's loss already carries its share of the
step's loss. Padding is not computed: a microbatch is the real tokens of its rows, one after another, with the segment
bounds beside them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from megatron.core.packed_seq_params import PackedSeqParams
from megatron.core.pipeline_parallel import get_forward_backward_func

from nemo_acereason.parallel.vocab_parallel import logp_and_entropy
from nemo_acereason.protocols import TokenLoss
from nemo_acereason.records import TrainRow


@dataclass(frozen=True, slots=True)
class Microbatch:
    """The tokens of some rows in a line, on the trainer's device. ``T`` counts all of them."""

    token_T: torch.Tensor
    target_T: torch.Tensor
    position_T: torch.Tensor
    packed: PackedSeqParams
    rows: tuple[TrainRow, ...]
    """The rows without their padding; together they are ``T`` tokens long."""


def rank_microbatches(
    rows: Sequence[TrainRow], *, dp_rank: int, dp_size: int, rows_per_microbatch: int
) -> list[list[TrainRow]]:
    """This data rank's share of a step's rows, in microbatches.

    Every data rank gets the same number of microbatches, so that the pipelines and reductions of all stay in step;
    the last ones of a rank may have fewer rows, down to one empty row.
    """
    share = list(rows[dp_rank::dp_size])
    longest_share = -(-len(rows) // dp_size)
    num_microbatches = max(1, -(-longest_share // rows_per_microbatch))
    return [
        share[i * rows_per_microbatch : (i + 1) * rows_per_microbatch] or [_empty_row()]
        for i in range(num_microbatches)
    ]


def build_microbatch(rows: Sequence[TrainRow], device: torch.device) -> Microbatch:
    """Drop the padding of ``rows``, join them, and find the bounds of their segments."""
    trimmed = [_without_padding(row, device) for row in rows]
    lengths = []
    for row in trimmed:
        lengths += torch.unique_consecutive(row.segment_T, return_counts=True)[1].tolist()
    bounds = torch.tensor([0, *lengths], dtype=torch.int32).cumsum(0, dtype=torch.int32).to(device)
    packed = PackedSeqParams(
        qkv_format="thd",
        cu_seqlens_q=bounds,
        cu_seqlens_kv=bounds,
        max_seqlen_q=max(lengths),
        max_seqlen_kv=max(lengths),
    )
    joined = [torch.cat([getattr(row, name) for row in trimmed]) for name in ("token_T", "target_T", "position_T")]
    return Microbatch(*joined, packed, tuple(trimmed))


def forward_backward(
    model: torch.nn.Module,
    microbatches: Sequence[Microbatch],
    loss: TokenLoss,
    *,
    temperature: float,
    vocab_size: int,
    tp_pg: dist.ProcessGroup,
) -> list[dict[str, float]]:
    """Leave the summed gradient of all microbatches in the model's gradient buffers.

    Returns:
        One mapping per row, on the last pipeline stage only: the loss's metrics and ``loss`` itself.
    """

    def loss_of(microbatch: Microbatch, logits_1TV: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, Any]:
        logp_T, entropy_T = logp_and_entropy(
            logits_1TV[0], microbatch.target_T, temperature=temperature, vocab_size=vocab_size, tp_pg=tp_pg
        )
        lengths = [len(row.token_T) for row in microbatch.rows]
        total = torch.zeros((), device=logp_T.device)
        metrics = []
        for row, row_logp_T, row_entropy_T in zip(
            microbatch.rows, logp_T.split(lengths), entropy_T.split(lengths), strict=True
        ):
            row_loss, row_metrics = loss(row_logp_T, row_entropy_T, row)
            total = total + row_loss
            metrics.append({"loss": row_loss.detach(), **row_metrics})
        return total, torch.ones((), dtype=torch.int, device=total.device), metrics

    def step(batches: Iterator[Microbatch], stage: torch.nn.Module) -> tuple[torch.Tensor, Any]:
        microbatch = next(batches)
        output = stage(
            microbatch.token_T[None], microbatch.position_T[None], None, packed_seq_params=microbatch.packed
        )
        return output, partial(loss_of, microbatch)

    collected = get_forward_backward_func()(
        forward_step_func=step,
        data_iterator=iter(microbatches),
        model=model,
        num_microbatches=len(microbatches),
        seq_length=1,  # lengths vary and are told from stage to stage
        micro_batch_size=1,
    )
    return [
        {name: float(value) for name, value in row_metrics.items()}
        for row_metrics_list in collected
        for row_metrics in row_metrics_list
    ]


@torch.no_grad()
def forward_logits(model: torch.nn.Module, microbatches: Sequence[Microbatch]) -> list[torch.Tensor]:
    """This rank's columns of the logits, [T, V] per microbatch; empty except on the last pipeline stage."""

    def step(batches: Iterator[Microbatch], stage: torch.nn.Module) -> tuple[torch.Tensor, Any]:
        microbatch = next(batches)
        output = stage(
            microbatch.token_T[None], microbatch.position_T[None], None, packed_seq_params=microbatch.packed
        )
        return output, lambda logits_1TV, non_loss_data: logits_1TV[0]

    collected: list[torch.Tensor] = get_forward_backward_func()(
        forward_step_func=step,
        data_iterator=iter(microbatches),
        model=model,
        num_microbatches=len(microbatches),
        seq_length=1,
        micro_batch_size=1,
        forward_only=True,
        collect_non_loss_data=True,
    )
    return collected


def _without_padding(row: TrainRow, device: torch.device) -> TrainRow:
    is_real_T = row.segment_T >= 0
    if not bool(is_real_T.any()):
        is_real_T[0] = True  # a pass needs one token; its weight is 0
    values = {field.name: getattr(row, field.name)[is_real_T].to(device) for field in dataclasses.fields(row)}
    return TrainRow(**values)


def _empty_row() -> TrainRow:
    none = torch.zeros(1)
    return TrainRow(
        token_T=none.long(),
        target_T=none.long(),
        position_T=none.long(),
        segment_T=none.long() - 1,
        mask_T=none.bool(),
        weight_T=none,
        advantage_T=none,
        sampled_logp_T=none,
    )
