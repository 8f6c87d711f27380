"""Packing: many samples into few rows of equal length. Knows nothing of ranks or engines.

Shapes: ``T`` tokens of a row.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from nemo_acereason.errors import ShapeError
from nemo_acereason.records import TrainRow, TrainSample

PADDING_SEGMENT = -1


def pack(samples: Sequence[TrainSample], row_tokens: int) -> list[TrainRow]:
    """Fill rows best-fit, longest sample first; the order of samples with equal length is kept.

    Each sample of ``n`` tokens takes ``n - 1`` positions: the last token is only predicted.

    Raises:
        ShapeError: a sample needs more than ``row_tokens`` positions, or its per-token fields differ in length.
    """
    lengths = [len(sample.token_ids) - 1 for sample in samples]
    for sample, length in zip(samples, lengths, strict=True):
        if length > row_tokens:
            raise ShapeError(f"a sample needs {length} positions, a row has {row_tokens}; raise trainer.row_tokens")
        if len(sample.weights) != len(sample.advantages) or len(sample.weights) > length:
            raise ShapeError(
                f"{len(sample.weights)} weights, {len(sample.advantages)} advantages for a sample of {length} positions"
            )
    rows: list[list[int]] = []
    room: list[int] = []
    for index in sorted(range(len(samples)), key=lambda i: -lengths[i]):
        fitting = [r for r, free in enumerate(room) if free >= lengths[index]]
        if fitting:
            row = min(fitting, key=room.__getitem__)
        else:
            row = len(rows)
            rows.append([])
            room.append(row_tokens)
        rows[row].append(index)
        room[row] -= lengths[index]
    return [_row([samples[i] for i in row], row_tokens) for row in rows]


def row_length(longest_sample: int, multiple: int = 64) -> int:
    """Positions that hold the longest sample, rounded up so that kernels and shards divide evenly."""
    return -(-max(longest_sample - 1, 1) // multiple) * multiple


def _row(samples: Sequence[TrainSample], row_tokens: int) -> TrainRow:
    row = TrainRow(
        token_T=torch.zeros(row_tokens, dtype=torch.int64),
        target_T=torch.zeros(row_tokens, dtype=torch.int64),
        position_T=torch.zeros(row_tokens, dtype=torch.int64),
        segment_T=torch.full((row_tokens,), PADDING_SEGMENT, dtype=torch.int64),
        mask_T=torch.zeros(row_tokens, dtype=torch.bool),
        weight_T=torch.zeros(row_tokens),
        advantage_T=torch.zeros(row_tokens),
        sampled_logp_T=torch.zeros(row_tokens),
    )
    start = 0
    for segment, sample in enumerate(samples):
        stop = start + len(sample.token_ids) - 1
        response = slice(stop - len(sample.weights), stop)
        token = torch.tensor(sample.token_ids, dtype=torch.int64)
        row.token_T[start:stop] = token[:-1]
        row.target_T[start:stop] = token[1:]
        row.position_T[start:stop] = torch.arange(stop - start)
        row.segment_T[start:stop] = segment
        row.mask_T[response] = True
        row.weight_T[response] = torch.tensor(sample.weights)
        row.advantage_T[response] = torch.tensor(sample.advantages)
        if sample.sampled_logprobs:
            row.sampled_logp_T[response] = torch.tensor(sample.sampled_logprobs)
        start = stop
    return row
