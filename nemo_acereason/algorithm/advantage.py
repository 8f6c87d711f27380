"""Advantages of a step's groups, from rewards alone. Knows neither tokens nor ranks.

Shapes: ``P`` prompts, ``G`` rollouts per prompt.
"""

from __future__ import annotations

import torch

STD_EPSILON = 1e-6
"""Added to the standard deviation. The papers do not say; the framework they used adds this (reference 1.1)."""


def group_normalized(reward_PG: torch.Tensor, valid_PG: torch.Tensor) -> torch.Tensor:
    """``(S - mean) / std`` inside each group [A eq. 2].

    A group whose rewards are all equal carries no signal: its advantages are exactly 0.

    Args:
        reward_PG: [P, G] float32.
        valid_PG: [P, G] bool; False leaves a sample out of mean and std and gives it 0 (infrastructure faults).
    Returns:
        [P, G] float32.
    Source: AceReason arXiv:2505.16400 eq. 2; unbiased std as ``torch.std`` in the framework it used (inferred).
    """
    count_P1 = valid_PG.sum(dim=1, keepdim=True)
    kept_PG = torch.where(valid_PG, reward_PG, 0.0)
    mean_P1 = kept_PG.sum(dim=1, keepdim=True) / count_P1.clamp(min=1)
    deviation_PG = torch.where(valid_PG, reward_PG - mean_P1, 0.0)
    std_P1 = (deviation_PG.square().sum(dim=1, keepdim=True) / (count_P1 - 1).clamp(min=1)).sqrt()
    has_signal_P1 = group_has_signal(reward_PG, valid_PG).unsqueeze(1)
    return torch.where(has_signal_P1, deviation_PG / (std_P1 + STD_EPSILON), 0.0)


def group_has_signal(reward_PG: torch.Tensor, valid_PG: torch.Tensor) -> torch.Tensor:
    """[P] bool: the valid rewards of the group are not all the same."""
    highest_P = torch.where(valid_PG, reward_PG, -torch.inf).amax(dim=1)
    lowest_P = torch.where(valid_PG, reward_PG, torch.inf).amin(dim=1)
    return highest_P > lowest_P
