"""Cross-entropy of response tokens of one packed row. Tensors in, tensors out.

Shapes: ``T`` packed tokens.
"""

from __future__ import annotations

import torch

from nemo_acereason.records import TrainRow


def response_cross_entropy(
    logp_T: torch.Tensor, entropy_T: torch.Tensor, row: TrainRow
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """``-sum_t w_t logp_t`` over response tokens; weights already hold the step's token count.

    Args:
        logp_T: [T] float32, nats.
        entropy_T: [T] float32, nats; reported only.
    Returns:
        Scalar to back-propagate, and ``num_tokens`` and ``sum_entropy``, which add up over rows.
    """
    loss = -(row.weight_T * logp_T).sum()
    with torch.no_grad():
        metrics = {
            "num_tokens": row.mask_T.sum(),
            "sum_entropy": torch.where(row.mask_T, entropy_T, 0.0).sum(),
        }
    return loss, metrics
