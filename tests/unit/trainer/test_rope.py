from typing import Any

import pytest
import torch
from transformers import AutoConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from nemo_acereason.config.model_arch import ModelArch, model_arch
from nemo_acereason.errors import ConfigError
from nemo_acereason.trainer.rope import rope_frequencies

SIZES = {
    "num_hidden_layers": 1,
    "hidden_size": 512,
    "intermediate_size": 64,
    "num_attention_heads": 4,
    "vocab_size": 16,
    "max_position_embeddings": 32768,
}
SCALINGS: list[dict[str, Any]] = [
    {"rope_type": "linear", "factor": 4.0},
    {
        "rope_type": "llama3",
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
    {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768},
    {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768, "attention_factor": 0.9},
]


def arch_with(scaling: dict[str, Any]) -> ModelArch:
    return model_arch({**SIZES, "model_type": "llama", "rope_theta": 500000.0, "rope_scaling": scaling})


@pytest.mark.parametrize("scaling", SCALINGS, ids=lambda scaling: scaling["rope_type"])
def test_frequencies_equal_those_of_transformers(scaling: dict[str, Any]) -> None:
    config = AutoConfig.for_model("llama", **SIZES, rope_parameters={"rope_theta": 500000.0, **scaling})
    wanted, wanted_factor = ROPE_INIT_FUNCTIONS[scaling["rope_type"]](config, torch.device("cpu"))
    inv_freq, factor = rope_frequencies(arch_with(scaling))
    torch.testing.assert_close(inv_freq, wanted, rtol=1e-6, atol=0.0)
    assert factor == pytest.approx(wanted_factor)


def test_unknown_scaling_is_refused() -> None:
    with pytest.raises(ConfigError, match="'longrope' is not supported; want linear, llama3 or yarn"):
        rope_frequencies(arch_with({"rope_type": "longrope", "factor": 2.0}))


def test_missing_key_is_named() -> None:
    with pytest.raises(ConfigError, match="'llama3' has no key 'low_freq_factor'"):
        rope_frequencies(arch_with({"rope_type": "llama3", "factor": 2.0}))
