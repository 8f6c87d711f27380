"""How much each response token counts in the step's loss.

A step's loss is ``sum_t weight_t * loss_t`` over all its tokens, wherever they are computed. The weights are made once,
from the whole step, before packing: so the loss cannot depend on packing, microbatches or data ranks.

Shapes: ``P`` prompts, ``G`` rollouts per prompt.
"""

from __future__ import annotations

import torch


def group_token_mean(num_tokens_PG: torch.Tensor, included_PG: torch.Tensor) -> torch.Tensor:
    """Each group's token sum over that group's token count, averaged over groups [A eq. 1].

    Args:
        num_tokens_PG: [P, G] int64, response tokens of each sample.
        included_PG: [P, G] bool; False leaves the sample out of the loss and of its group's count.
    Returns:
        [P, G] float32, the weight of every token of that sample. Groups with nothing included weigh 0 and
        do not count in the average.
    """
    counted_PG = torch.where(included_PG, num_tokens_PG, 0)
    group_tokens_P1 = counted_PG.sum(dim=1, keepdim=True)
    num_groups = (group_tokens_P1 > 0).sum().clamp(min=1)
    weight_P1 = torch.where(group_tokens_P1 > 0, 1.0 / (group_tokens_P1.clamp(min=1) * num_groups), 0.0)
    return torch.where(included_PG, weight_P1, 0.0)


def step_token_mean(num_tokens_PG: torch.Tensor, included_PG: torch.Tensor) -> torch.Tensor:
    """Every included token of the step weighs the same (DAPO's global token mean, arXiv:2503.14476 sec. 3.3).

    Args and returns as :func:`group_token_mean`.
    """
    total = torch.where(included_PG, num_tokens_PG, 0).sum().clamp(min=1)
    return torch.where(included_PG, 1.0 / total.float(), 0.0)
