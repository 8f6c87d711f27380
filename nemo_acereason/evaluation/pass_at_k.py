"""avg@k and pass@k from counts of correct samples. Numbers in, numbers out; nothing is sampled here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over problems and how far to trust it."""

    mean: float
    stderr_samples: float
    """From drawing the samples again on the same problems: what two checkpoints on one set are compared with."""
    stderr_problems: float
    """From drawing other problems too: what a claim beyond this set is worth. NaN for a single problem."""


def avg_at_k(counts: Sequence[tuple[int, int]]) -> Estimate:
    """Mean over problems of each problem's share of correct samples, with both standard errors.

    Args:
        counts: (samples, correct ones) of each problem; samples >= 1.
    Raises:
        ValueError: no problems, or a count that cannot be.

    ``stderr_samples`` is NaN when a problem has a single sample: its spread is unknown.
    """
    if not counts:
        raise ValueError("avg@k over no problems; give at least one")
    for num_samples, num_correct in counts:
        _check(num_samples, num_correct)
    shares = [correct / samples for samples, correct in counts]
    mean = math.fsum(shares) / len(shares)
    if any(samples == 1 for samples, _ in counts):
        stderr_samples = math.nan
    else:
        # p(1-p)/(n-1) is the unbiased estimate of the variance of a share of n draws.
        variances = [p * (1 - p) / (samples - 1) for p, (samples, _) in zip(shares, counts, strict=True)]
        stderr_samples = math.sqrt(math.fsum(variances)) / len(shares)
    if len(shares) == 1:
        stderr_problems = math.nan
    else:
        spread = math.fsum((p - mean) ** 2 for p in shares) / (len(shares) - 1)
        stderr_problems = math.sqrt(spread / len(shares))
    return Estimate(mean, stderr_samples, stderr_problems)


def pass_at_k(num_samples: int, num_correct: int, k: int) -> float:
    """Chance that at least one of ``k`` samples drawn without replacement is correct: 1 - C(n-c, k) / C(n, k).

    Unbiased, where 1 - (1 - c/n)^k is not. Computed as a product of ratios below 1, so large n neither overflow nor
    cancel.

    Raises:
        ValueError: k is not in 1..num_samples, or the counts cannot be.

    Source: arXiv:2107.03374 section 2.1.

    >>> round(pass_at_k(4, 1, 2), 12)
    0.5
    """
    _check(num_samples, num_correct)
    if not 1 <= k <= num_samples:
        raise ValueError(f"pass@{k} of {num_samples} samples; want k in 1..{num_samples}")
    num_wrong = num_samples - num_correct
    if num_wrong < k:
        return 1.0
    if num_correct == 0:
        return 0.0
    # log1p/expm1 keep small chances exact where 1 - product would round them away.
    log_miss = math.fsum(math.log1p(-num_correct / (num_samples - i)) for i in range(k))
    return -math.expm1(log_miss)


def _check(num_samples: int, num_correct: int) -> None:
    if num_samples < 1 or not 0 <= num_correct <= num_samples:
        raise ValueError(f"{num_correct} correct of {num_samples} samples; want 0 <= correct <= samples, samples >= 1")
