"""Prompts for reinforcement learning (an endless, resumable stream) and for evaluation (a list).

Knows nothing of rewards or rollouts; which prompts carry signal is for filters to say.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from nemo_acereason.config.schema import DataConfig, PromptFormat
from nemo_acereason.data.chat_template import render_prompt
from nemo_acereason.data.row_stream import RowStream
from nemo_acereason.data.sources import Row, row_id
from nemo_acereason.records import Prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class PromptStream(RowStream[Prompt]):
    """The :class:`~nemo_acereason.protocols.PromptSource` of a stage.

    Prompts of more than ``max_prompt_tokens`` are passed over and counted in ``num_dropped``.

    Raises:
        DataError: every prompt is too long.
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
        domain: str = "math",
    ) -> None:
        def make_prompt(index: int) -> Prompt | None:
            prompt = _prompt(rows[index], index, data, fmt, tokenizer, domain)
            return prompt if len(prompt.token_ids) <= max_prompt_tokens else None

        super().__init__(
            rows, make_prompt, seed=seed, shuffle=data.shuffle, limit_hint=f"max_prompt_tokens={max_prompt_tokens}"
        )


def render_prompts(
    rows: Sequence[Row],
    data: DataConfig,
    fmt: PromptFormat,
    tokenizer: PreTrainedTokenizerBase,
    *,
    domain: str = "math",
) -> list[Prompt]:
    """Every row as a prompt, in the rows' order, whatever its length: an evaluation set must not shrink silently."""
    return [_prompt(row, index, data, fmt, tokenizer, domain) for index, row in enumerate(rows)]


def _prompt(
    row: Row, index: int, data: DataConfig, fmt: PromptFormat, tokenizer: PreTrainedTokenizerBase, domain: str
) -> Prompt:
    problem = str(row[data.problem])
    text, token_ids = render_prompt(fmt, problem, tokenizer)
    return Prompt(
        prompt_id=row_id(data, row, index),
        problem=problem,
        reference=row[data.reference],
        domain=domain,
        text=text,
        token_ids=token_ids,
        extra={column: value for column, value in row.items() if column not in (data.problem, data.reference)},
    )
