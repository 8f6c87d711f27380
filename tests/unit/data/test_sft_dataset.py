"""SFT sequences: the prompt of reinforcement learning, the loss on the response alone, weights that sum to 1."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import PreTrainedTokenizerBase

from nemo_acereason.config.schema import DataConfig, PromptFormat
from nemo_acereason.data.chat_template import encode, render_prompt
from nemo_acereason.data.sft_dataset import SftStream, step_samples
from nemo_acereason.errors import DataError
from nemo_acereason.records import TrainSample

THINK = PromptFormat(response_prefix="<think>\n")
DATA = DataConfig(source="rows.json", shuffle=False)


def make_stream(
    rows: list[dict[str, Any]], tokenizer: PreTrainedTokenizerBase, max_prompt: int = 99, max_response: int = 99
) -> SftStream:
    return SftStream(
        rows, DATA, THINK, tokenizer, seed=1, max_prompt_tokens=max_prompt, max_response_tokens=max_response
    )


@pytest.mark.parametrize("response", ["<think>\n2\n</think>\n2", "2\n</think>\n2"])
def test_sequence_is_prompt_then_response_then_end_token(
    byte_tokenizer: PreTrainedTokenizerBase, response: str
) -> None:
    (sample,) = make_stream([{"problem": "1+1", "response": response}], byte_tokenizer).take(1)
    prompt_ids = render_prompt(THINK, "1+1", byte_tokenizer)[1]
    wanted = (*encode(byte_tokenizer, "2\n</think>\n2"), byte_tokenizer.eos_token_id)
    assert sample == TrainSample(prompt_ids + wanted, (1.0,) * len(wanted), (1.0,) * len(wanted))


def test_real_chat_ends_with_the_end_of_turn_token(qwen_tokenizer: PreTrainedTokenizerBase) -> None:
    (sample,) = make_stream([{"problem": "1+1", "response": "<think>\n2\n</think>\n2"}], qwen_tokenizer).take(1)
    assert qwen_tokenizer.decode(sample.token_ids) == (
        "<|im_start|>user\n1+1<|im_end|>\n<|im_start|>assistant\n<think>\n2\n</think>\n2<|im_end|>"
    )
    assert qwen_tokenizer.decode(sample.token_ids[-len(sample.weights) :]) == "2\n</think>\n2<|im_end|>"


def test_too_long_rows_are_removed_not_truncated(byte_tokenizer: PreTrainedTokenizerBase) -> None:
    rows = [{"problem": "1", "response": "x" * length} for length in (3, 4, 5)] + [
        {"problem": "1" * 50, "response": "x"}
    ]
    prompt_tokens = len(render_prompt(THINK, "1", byte_tokenizer)[1])
    stream = make_stream(rows, byte_tokenizer, max_prompt=prompt_tokens, max_response=5)
    assert [len(sample.weights) for sample in stream.take(4)] == [4, 5, 4, 5]
    assert stream.num_dropped == 2


def test_nothing_left_is_refused(byte_tokenizer: PreTrainedTokenizerBase) -> None:
    with pytest.raises(DataError, match="all 1 rows are longer than max_prompt_tokens=99 or max_response_tokens=1"):
        make_stream([{"problem": "1", "response": "long"}], byte_tokenizer, max_response=1)


def test_stream_resumes_where_it_stopped(byte_tokenizer: PreTrainedTokenizerBase) -> None:
    rows = [{"problem": str(number), "response": str(number)} for number in range(7)]
    stream, resumed = make_stream(rows, byte_tokenizer), make_stream(rows, byte_tokenizer)
    stream.take(9)
    resumed.restore(stream.state())
    assert resumed.take(9) == stream.take(9)


def test_weights_of_a_step_are_equal_and_sum_to_one() -> None:
    samples = [TrainSample((1, 2, 3), (1.0,), (1.0,)), TrainSample((1, 2, 3, 4), (1.0,) * 3, (1.0,) * 3)]
    weighted = step_samples(samples)
    assert [sample.weights for sample in weighted] == [(0.25,), (0.25, 0.25, 0.25)]
    assert [sample.token_ids for sample in weighted] == [(1, 2, 3), (1, 2, 3, 4)]
