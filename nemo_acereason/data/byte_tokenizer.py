"""A tokenizer without training data: one token per byte, and the few special tokens of a ChatML chat.

For models started from nothing. Token ``b`` is byte ``b`` for 0..255; the special tokens follow.
"""

from __future__ import annotations

import json
from pathlib import Path

PAD, IM_START, IM_END, THINK, END_THINK = "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>"
"""Padding is called what Qwen calls it: beside a qwen2 or qwen3 config.json transformers picks Qwen's tokenizer class,
which would add a token of that name."""
VOCAB_SIZE = 256 + 5

_CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def write_byte_tokenizer(directory: str | Path) -> Path:
    """Write a Hugging Face fast tokenizer into ``directory`` (made if missing) and return it.

    ``<|im_end|>`` ends a response; ``<think>`` and ``</think>`` are single tokens that decoding always keeps.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocab = {character: byte for byte, character in enumerate(_byte_characters())}
    core = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in (PAD, IM_START, IM_END)])
    # not special: they must survive skip_special_tokens, a reward looks for </think>
    core.add_tokens([AddedToken(name, special=False, normalized=False) for name in (THINK, END_THINK)])
    tokenizer = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=core,
        pad_token=PAD,
        eos_token=IM_END,
        additional_special_tokens=[IM_START],
        clean_up_tokenization_spaces=False,
        chat_template=_CHATML,
    )
    assert len(tokenizer) == VOCAB_SIZE
    directory = Path(directory)
    tokenizer.save_pretrained(directory, save_jinja_files=False)
    settings_file = directory / "tokenizer_config.json"
    settings = json.loads(settings_file.read_text())
    settings["tokenizer_class"] = "PreTrainedTokenizerFast"  # transformers 5 writes a name that 4 does not know
    settings_file.write_text(json.dumps(settings, indent=2) + "\n")
    return directory


def _byte_characters() -> list[str]:
    """The printable character that stands for each byte in GPT-2's byte-level vocabularies.

    Bytes that print as themselves in Latin-1 do; the others, in order, take the characters from U+0100 on.
    """
    own = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    others = iter(range(0x100, 0x200))
    return [chr(byte) if byte in own else chr(next(others)) for byte in range(256)]
