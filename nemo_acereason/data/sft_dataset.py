"""Worked responses for supervised fine-tuning: an endless, resumable stream of sequences whose loss is on the response.

Prompts are rendered as in reinforcement learning, token for token. Packs nothing: see algorithm/pack.py.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

from nemo_acereason.config.schema import DataConfig, PromptFormat
from nemo_acereason.data.chat_template import encode, render_prompt, turn_end_id
from nemo_acereason.data.row_stream import RowStream
from nemo_acereason.data.sources import Row
from nemo_acereason.records import TrainSample

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class SftStream(RowStream[TrainSample]):
    """Sequences of prompt and response, every response token with weight 1 (see :func:`step_samples`).

    A row whose prompt or response is over its limit is removed, not truncated [C 3.2.2], and counted in
    ``num_dropped``; the end token counts as part of the response.

    Raises:
        DataError: every row is too long.
        ConfigError: the tokenizer cannot render the format.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        data: DataConfig,
        fmt: PromptFormat,
        tokenizer: PreTrainedTokenizerBase,
        *,
        seed: int,
        max_prompt_tokens: int,
        max_response_tokens: int,
    ) -> None:
        end_id = turn_end_id(fmt, tokenizer)

        def make_sample(index: int) -> TrainSample | None:
            row = rows[index]
            _, prompt_ids = render_prompt(fmt, str(row[data.problem]), tokenizer)
            # the prompt has opened the response already; published responses often open it themselves
            response = str(row[data.response]).removeprefix(fmt.response_prefix)
            response_ids = (*encode(tokenizer, response), end_id)
            if len(prompt_ids) > max_prompt_tokens or len(response_ids) > max_response_tokens:
                return None
            ones = (1.0,) * len(response_ids)
            return TrainSample(token_ids=prompt_ids + response_ids, advantages=ones, weights=ones)

        super().__init__(
            rows,
            make_sample,
            seed=seed,
            shuffle=data.shuffle,
            limit_hint=f"max_prompt_tokens={max_prompt_tokens} or max_response_tokens={max_response_tokens}",
        )


def step_samples(samples: Sequence[TrainSample]) -> list[TrainSample]:
    """The samples of one step, weighted so that the step's weights sum to 1: the mean over all its response tokens."""
    total = sum(sum(sample.weights) for sample in samples)
    return [dataclasses.replace(s, weights=tuple(weight / total for weight in s.weights)) for s in samples]
