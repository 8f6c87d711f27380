"""The byte tokenizer: every text comes back, special tokens are single ones."""

from __future__ import annotations

from pathlib import Path

from hypothesis import example, given
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from nemo_acereason.data.byte_tokenizer import VOCAB_SIZE, write_byte_tokenizer
from nemo_acereason.data.chat_template import encode, load_tokenizer


def test_token_ids_are_the_bytes(byte_tokenizer: PreTrainedTokenizerBase) -> None:
    text = "7+5=12\n é\x00 😀"
    assert bytes(encode(byte_tokenizer, text)) == text.encode()


def test_special_tokens_follow_the_bytes(byte_tokenizer: PreTrainedTokenizerBase) -> None:
    assert encode(byte_tokenizer, "<|endoftext|><|im_start|><|im_end|><think></think>") == (256, 257, 258, 259, 260)
    assert (byte_tokenizer.pad_token_id, byte_tokenizer.eos_token_id, len(byte_tokenizer)) == (256, 258, VOCAB_SIZE)


def test_think_marks_survive_the_dropping_of_special_tokens(byte_tokenizer: PreTrainedTokenizerBase) -> None:
    ids = encode(byte_tokenizer, "<think>\n1\n</think>\n2<|im_end|>")
    assert byte_tokenizer.decode(ids, skip_special_tokens=True) == "<think>\n1\n</think>\n2"


def test_any_text_round_trips(tmp_path_factory) -> None:  # type: ignore[no-untyped-def]
    tokenizer = load_tokenizer(write_byte_tokenizer(tmp_path_factory.mktemp("bytes")))

    @given(st.text())
    @example("  leading and trailing blanks \n\n")
    @example("a , b . can 't")
    @example("<think><|im_end|><|im_start|user")
    def round_trip(text: str) -> None:
        assert tokenizer.decode(encode(tokenizer, text)) == text

    round_trip()


def test_single_bytes_of_a_broken_character_decode_to_a_replacement(byte_tokenizer: PreTrainedTokenizerBase) -> None:
    assert byte_tokenizer.decode([0xF0, 0x9F]) == "\N{REPLACEMENT CHARACTER}"


def test_directory_loads_by_itself_without_a_model(tmp_path: Path) -> None:
    directory = write_byte_tokenizer(tmp_path / "new" / "tokenizer")
    tokenizer = AutoTokenizer.from_pretrained(directory)
    chat = [{"role": "user", "content": "1+1"}]
    assert tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) == (
        "<|im_start|>user\n1+1<|im_end|>\n<|im_start|>assistant\n"
    )
