"""The policy-gradient loss of one packed row, strictly on-policy. Tensors in, tensors out.

Shapes: ``T`` packed tokens.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from nemo_acereason.errors import ShapeError
from nemo_acereason.records import TrainRow


def on_policy_loss(
    logp_T: torch.Tensor, entropy_T: torch.Tensor, row: TrainRow
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """``-sum_t w_t A_t logp_t``, the gradient of the clipped surrogate when the ratio is exactly 1.

    With one optimizer step per rollout batch the policy in training is the policy that sampled: the ratio is 1, the
    clip cannot act, KL and entropy terms have coefficient 0, and the surrogate's gradient is this one's. So no
    old-policy pass exists; how far the sampler's numbers are from the trainer's is reported instead.

    Args:
        logp_T: [T] float32, nats; log-prob of each target under softmax(logits / temperature).
        entropy_T: [T] float32, nats; entropy of that distribution.
        row: the packed row.
    Returns:
        Scalar to back-propagate, and sums over the row's response tokens that add up over rows:
        ``num_tokens``, ``sum_entropy``, ``sum_kl`` (k3 estimate of KL(sampler || trainer)), ``sum_prob_error``
        (\\|p_trainer - p_sampler\\| of the taken token), ``sum_logp_error`` and ``max_logp_error`` (nats).
    Raises:
        ShapeError: the tensors differ in length.
    Source: AceReason arXiv:2505.16400 eq. 3-4; k3: http://joschu.net/blog/kl-approx.html
    """
    if not logp_T.shape == entropy_T.shape == row.weight_T.shape:
        shapes = [tuple(tensor.shape) for tensor in (logp_T, entropy_T, row.weight_T)]
        raise ShapeError(f"logp, entropy and row have shapes {shapes}; want one and the same")
    loss = -(row.weight_T * row.advantage_T * logp_T).sum()
    mask_T = row.mask_T
    with torch.no_grad():
        difference_T = torch.where(mask_T, logp_T - row.sampled_logp_T, 0.0)
        error_T = difference_T.abs()
        probability_error_T = torch.where(mask_T, (logp_T.exp() - row.sampled_logp_T.exp()).abs(), 0.0)
        metrics = {
            "num_tokens": mask_T.sum(),
            "sum_entropy": torch.where(mask_T, entropy_T, 0.0).sum(),
            "sum_kl": (difference_T.exp() - 1 - difference_T).sum(),
            "sum_prob_error": probability_error_T.sum(),
            "sum_logp_error": error_T.sum(),
            "max_logp_error": error_T.max(),
        }
    return loss, metrics


def mismatch_metrics(sums: Mapping[str, float]) -> dict[str, float]:
    """Turn a step's sums from :func:`on_policy_loss` into the per-token metrics that are reported."""
    num_tokens = max(sums["num_tokens"], 1.0)
    return {
        "entropy": sums["sum_entropy"] / num_tokens,
        "mismatch_kl": sums["sum_kl"] / num_tokens,
        "token_prob_error": sums["sum_prob_error"] / num_tokens,
        "logp_error_mean": sums["sum_logp_error"] / num_tokens,
        "logp_error_max": sums["max_logp_error"],
        "tokens/trained": sums["num_tokens"],
    }
