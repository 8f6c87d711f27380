"""From a step's packed rows to one data rank's microbatches: who computes which row, and the real tokens of it.

Padding is not computed: a microbatch is the tokens of its rows, one after another, with the segment bounds beside
them. Shape letters: ``T`` tokens of a microbatch, ``S`` its segments.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from nemo_acereason.records import TrainRow


@dataclass(frozen=True, slots=True)
class Microbatch:
    """The tokens of some rows in a line, on the trainer's device."""

    token_T: torch.Tensor
    target_T: torch.Tensor
    position_T: torch.Tensor
    bounds: torch.Tensor
    """[S + 1] int32: segment ``s`` is tokens ``bounds[s]`` to ``bounds[s + 1]``."""
    longest_segment: int
    rows: tuple[TrainRow, ...]
    """The rows without their padding; together they are ``T`` tokens long."""


def rank_rows(
    rows: Sequence[TrainRow], *, dp_rank: int, dp_size: int, rows_per_microbatch: int
) -> list[list[TrainRow]]:
    """This data rank's share of a step's rows, by microbatch.

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
    trimmed = [_without_padding(row) for row in rows]
    lengths: list[int] = []
    for row in trimmed:
        lengths += torch.unique_consecutive(row.segment_T, return_counts=True)[1].tolist()
    on_device = tuple(_map(row, lambda tensor: tensor.to(device)) for row in trimmed)
    return Microbatch(
        token_T=torch.cat([row.token_T for row in on_device]),
        target_T=torch.cat([row.target_T for row in on_device]),
        position_T=torch.cat([row.position_T for row in on_device]),
        bounds=torch.tensor([0, *lengths]).cumsum(0).to(device=device, dtype=torch.int32),
        longest_segment=max(lengths),
        rows=on_device,
    )


def _without_padding(row: TrainRow) -> TrainRow:
    is_real_T = row.segment_T >= 0
    if not bool(is_real_T.any()):
        is_real_T[0] = True  # a pass needs one token; its weight is 0
    return _map(row, lambda tensor: tensor[is_real_T])


def _map(row: TrainRow, change: Callable[[torch.Tensor], torch.Tensor]) -> TrainRow:
    return TrainRow(**{field.name: change(getattr(row, field.name)) for field in dataclasses.fields(row)})


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
