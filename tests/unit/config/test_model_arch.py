"""Shapes read from config.json, as transformers 4 and 5 write it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nemo_acereason.config.model_arch import model_arch, read_model_arch
from nemo_acereason.errors import ConfigError

QWEN25_7B = {
    "model_type": "qwen2", "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28,
    "num_attention_heads": 28, "num_key_value_heads": 4, "vocab_size": 152064, "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-6, "rope_theta": 10000, "tie_word_embeddings": False,
}  # fmt: skip


def test_parameters_of_qwen25_7b_are_the_published_number() -> None:
    assert model_arch(QWEN25_7B).num_parameters == 7_615_616_512


def test_rope_is_read_from_either_place() -> None:
    llama3 = {"rope_type": "llama3", "factor": 8.0}
    four = model_arch({**QWEN25_7B, "rope_theta": 5e5, "rope_scaling": llama3})
    five = model_arch({**QWEN25_7B, "rope_parameters": {"rope_theta": 5e5, **llama3}})
    assert four.rope_theta == five.rope_theta == 5e5
    assert four.rope_scaling == five.rope_scaling == llama3
    assert (
        model_arch({**QWEN25_7B, "rope_parameters": {"rope_theta": 1e6, "rope_type": "default"}}).rope_scaling is None
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "mixtral"}, "model_type='mixtral' is not supported; want one of llama, qwen2, qwen3"),
        ({"hidden_act": "gelu"}, "hidden_act='gelu' is not supported; want 'silu'"),
        ({"use_sliding_window": True}, "use_sliding_window=True is not supported"),
        ({"model_type": "llama", "attention_bias": True}, "attention_bias=true is not supported for llama"),
    ],
)
def test_what_cannot_be_trained_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        model_arch({**QWEN25_7B, **change})


def test_missing_and_broken_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no config\.json there"):
        read_model_arch(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ConfigError, match="is not JSON"):
        read_model_arch(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(ConfigError, match="key 'num_attention_heads' is missing"):
        read_model_arch(tmp_path)
