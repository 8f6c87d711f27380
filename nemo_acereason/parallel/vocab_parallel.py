"""Log-prob of the taken token, and entropy, from logits whose vocabulary is cut over the tensor-parallel ranks.

No rank ever holds a whole row of logits. Shape letters: ``T`` packed tokens, ``V`` this rank's share of the vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist


def logp_and_entropy(
    logits_TV: torch.Tensor,
    target_T: torch.Tensor,
    *,
    temperature: float,
    vocab_size: int,
    tp_pg: dist.ProcessGroup | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-softmax at the target and entropy of the whole row, in float32.

    Args:
        logits_TV: [T, V] this rank's consecutive columns, equally many on every rank of ``tp_pg``; any float dtype.
        target_T: [T] int64, global token ids, each less than ``vocab_size``; the same on every rank.
        temperature: divides the logits first, > 0.
        vocab_size: columns at or past it (padding of the embedding) have probability 0.
        tp_pg: the tensor-parallel group; None for a whole vocabulary.
    Returns:
        ``(logp_T, entropy_T)``, both [T] float32 in nats and equal on every rank. Only ``logp_T`` carries a gradient.
    """
    apply: Any = _LogpAndEntropy.apply
    result: tuple[torch.Tensor, torch.Tensor] = apply(logits_TV, target_T, temperature, vocab_size, tp_pg)
    return result


class _LogpAndEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        logits_TV: torch.Tensor,
        target_T: torch.Tensor,
        temperature: float,
        vocab_size: int,
        tp_pg: dist.ProcessGroup | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        num_tokens, width = logits_TV.shape
        start = width * (dist.get_rank(tp_pg) if tp_pg is not None else 0)
        num_real = max(0, min(width, vocab_size - start))
        is_shared = tp_pg is not None and dist.get_world_size(tp_pg) > 1

        shifted_TV = logits_TV[:, :num_real].float() / temperature
        max_T = shifted_TV.amax(-1) if num_real else shifted_TV.new_full((num_tokens,), float("-inf"))
        if is_shared:
            dist.all_reduce(max_T, op=dist.ReduceOp.MAX, group=tp_pg)
        shifted_TV -= max_T[:, None]

        local_T = target_T - start
        is_here_T = (local_T >= 0) & (local_T < num_real)
        column_T = local_T.clamp(0, max(num_real - 1, 0))
        exp_TV = shifted_TV.exp()
        sums_3T = shifted_TV.new_zeros((3, num_tokens))
        if num_real:
            sums_3T[0] = exp_TV.sum(-1)
            sums_3T[1] = torch.linalg.vecdot(exp_TV, shifted_TV)
            sums_3T[2] = torch.where(is_here_T, shifted_TV.gather(1, column_T[:, None])[:, 0], 0.0)
        if is_shared:
            dist.all_reduce(sums_3T, group=tp_pg)
        sum_exp_T, sum_exp_shifted_T, target_shifted_T = sums_3T
        log_sum_T = sum_exp_T.log()

        ctx.save_for_backward(exp_TV.div_(sum_exp_T[:, None]), column_T, is_here_T)
        ctx.temperature, ctx.width, ctx.dtype = temperature, width, logits_TV.dtype
        entropy_T = log_sum_T - sum_exp_shifted_T / sum_exp_T
        ctx.mark_non_differentiable(entropy_T)
        return target_shifted_T - log_sum_T, entropy_T

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Any, ...]:
        prob_TV, column_T, is_here_T = ctx.saved_tensors
        grad_T = grads[0] / ctx.temperature
        num_tokens, num_real = prob_TV.shape
        grad_TV = prob_TV.new_zeros((num_tokens, ctx.width), dtype=ctx.dtype)
        if num_real:
            real_TV = prob_TV * -grad_T[:, None]
            real_TV.scatter_add_(1, column_T[:, None], torch.where(is_here_T, grad_T, 0.0)[:, None])
            grad_TV[:, :num_real] = real_TV
        return grad_TV, None, None, None, None
