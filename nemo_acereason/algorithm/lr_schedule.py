"""Learning rate of a step inside its stage: linear warm-up, then constant, cosine or linear. Plain numbers."""

from __future__ import annotations

import math


def learning_rate_at(
    step: int, *, peak: float, lowest: float, warmup_steps: int, num_steps: int, schedule: str
) -> float:
    """Learning rate of one step.

    Args:
        step: 1 for the stage's first step.
        peak: reached at the end of the warm-up.
        lowest: where ``cosine`` and ``linear`` end, at ``num_steps``.
        schedule: ``constant``, ``cosine`` or ``linear``.
    """
    if step <= warmup_steps:
        return peak * step / warmup_steps
    if schedule == "constant":
        return peak
    progress = min((step - warmup_steps) / max(num_steps - warmup_steps, 1), 1.0)
    remaining = 1.0 - progress if schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * progress))
    return lowest + (peak - lowest) * remaining
