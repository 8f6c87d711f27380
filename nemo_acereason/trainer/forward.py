"""Forward and backward pass of one step's microbatches through Megatron's schedules.

Gradients are plain sums over microbatches and data-parallel ranks: each row's loss already carries its share of the
step's loss. Shape letters: ``T`` tokens of a microbatch, ``V`` this rank's share of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from megatron.core.packed_seq_params import PackedSeqParams
from megatron.core.pipeline_parallel import get_forward_backward_func

from nemo_acereason.parallel.vocab_parallel import logp_and_entropy
from nemo_acereason.protocols import TokenLoss
from nemo_acereason.trainer.microbatch import Microbatch

RowMetrics = dict[str, float]


def forward_backward(
    model: torch.nn.Module,
    microbatches: Sequence[Microbatch],
    loss: TokenLoss,
    *,
    temperature: float,
    vocab_size: int,
    tp_pg: dist.ProcessGroup,
) -> list[RowMetrics]:
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
            microbatch.rows, torch.split(logp_T, lengths), torch.split(entropy_T, lengths), strict=True
        ):
            row_loss, row_metrics = loss(row_logp_T, row_entropy_T, row)
            total = total + row_loss
            metrics.append({"loss": row_loss.detach(), **row_metrics})
        # the count of tokens is Megatron's to divide by; nothing divides here
        return total, torch.ones((), dtype=torch.int, device=total.device), metrics

    collected = _run(model, microbatches, loss_of)
    return [{name: float(value) for name, value in row.items()} for rows in collected for row in rows]


@torch.no_grad()
def forward_logits(model: torch.nn.Module, microbatches: Sequence[Microbatch]) -> list[torch.Tensor]:
    """This rank's columns of the logits, [T, V] per microbatch; empty except on the last pipeline stage."""

    def logits_of(_: Microbatch, logits_1TV: torch.Tensor, **__: bool) -> torch.Tensor:
        return logits_1TV[0]

    return _run(model, microbatches, logits_of, forward_only=True, collect_non_loss_data=True)


def _run(
    model: torch.nn.Module, microbatches: Sequence[Microbatch], on_last_stage: Callable[..., Any], **options: bool
) -> list[Any]:
    """Run a schedule; what ``on_last_stage`` collects, by microbatch."""

    def step(batches: Iterator[Microbatch], stage: torch.nn.Module) -> tuple[torch.Tensor, Callable[..., Any]]:
        microbatch = next(batches)
        packed = PackedSeqParams(
            qkv_format="thd",
            cu_seqlens_q=microbatch.bounds,
            cu_seqlens_kv=microbatch.bounds,
            max_seqlen_q=microbatch.longest_segment,
            max_seqlen_kv=microbatch.longest_segment,
        )
        output = stage(microbatch.token_T[None], microbatch.position_T[None], None, packed_seq_params=packed)
        return output, partial(on_last_stage, microbatch)

    collected: list[Any] = get_forward_backward_func()(
        forward_step_func=step,
        data_iterator=iter(microbatches),
        model=model,
        num_microbatches=len(microbatches),
        seq_length=1,  # unused: lengths vary and are told from stage to stage
        micro_batch_size=1,
        **options,
    )
    return collected
