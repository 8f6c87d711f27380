"""Tokenizers of the data tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerBase

from nemo_acereason.data.byte_tokenizer import write_byte_tokenizer
from nemo_acereason.data.chat_template import load_tokenizer


@pytest.fixture(scope="session")
def byte_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerBase:
    return load_tokenizer(write_byte_tokenizer(tmp_path_factory.mktemp("bytes")))


@pytest.fixture(scope="session")
def qwen_tokenizer(shared_dir: Path) -> PreTrainedTokenizerBase:
    return load_tokenizer(shared_dir / "data" / "tokenizers" / "qwen2.5")
