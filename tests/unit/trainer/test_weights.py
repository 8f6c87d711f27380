from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from nemo_acereason.config.model_arch import ModelArch, model_arch
from nemo_acereason.errors import ConfigError, DataError
from nemo_acereason.resharding.name_map import hf_shapes
from nemo_acereason.trainer.weights import HfDirectory, RandomWeights

NAME = "model.layers.0.mlp.gate_proj.weight"
WHOLE = (slice(0, 24), slice(0, 16))
TOP = (slice(3, 9), slice(0, 16))


@pytest.fixture
def arch() -> ModelArch:
    return model_arch(
        {
            "model_type": "qwen2",
            "num_hidden_layers": 1,
            "hidden_size": 16,
            "intermediate_size": 24,
            "num_attention_heads": 2,
            "vocab_size": 32,
            "tie_word_embeddings": True,
        }
    )


def tensors_of(arch: ModelArch) -> dict[str, torch.Tensor]:
    return {name: torch.randn(shape) for name, shape in hf_shapes(arch).items()}


def test_random_rectangles_are_those_of_the_whole(arch: ModelArch) -> None:
    (whole,) = RandomWeights(arch, 1).read(NAME, [WHOLE])
    (top,) = RandomWeights(arch, 1).read(NAME, [TOP])
    assert torch.equal(top, whole[TOP])
    assert float(whole.std()) == pytest.approx(0.02, rel=0.1)


def test_random_weights_differ_by_seed_and_name(arch: ModelArch) -> None:
    (whole,) = RandomWeights(arch, 1).read(NAME, [WHOLE])
    (other_seed,) = RandomWeights(arch, 2).read(NAME, [WHOLE])
    (other_name,) = RandomWeights(arch, 1).read(NAME.replace("gate", "up"), [WHOLE])
    assert not torch.equal(whole, other_seed)
    assert not torch.equal(whole, other_name)


def test_random_norms_are_one_and_biases_zero(arch: ModelArch) -> None:
    source = RandomWeights(arch, 1)
    assert torch.equal(source.read("model.norm.weight", [(slice(0, 16),)])[0], torch.ones(16))
    assert torch.equal(source.read("model.layers.0.self_attn.q_proj.bias", [(slice(0, 8),)])[0], torch.zeros(8))


def test_directory_gives_rectangles_of_its_tensors(arch: ModelArch, tmp_path: Path) -> None:
    tensors = tensors_of(arch)
    save_file(
        {**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"].clone()}, tmp_path / "model.safetensors"
    )
    (top,) = HfDirectory(tmp_path, arch).read(NAME, [TOP])
    assert torch.equal(top, tensors[NAME][TOP])


def test_missing_and_unknown_tensors_are_named(arch: ModelArch, tmp_path: Path) -> None:
    tensors = tensors_of(arch)
    del tensors[NAME]
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(DataError, match=f"lacks '{NAME}' \\(1 missing, 0 unknown\\)"):
        HfDirectory(tmp_path, arch)
    save_file({**tensors_of(arch), "model.layers.7.extra": torch.ones(1)}, tmp_path / "model.safetensors")
    with pytest.raises(DataError, match=r"unknown tensor 'model\.layers\.7\.extra'"):
        HfDirectory(tmp_path, arch)


def test_wrong_shape_is_told_with_both(arch: ModelArch, tmp_path: Path) -> None:
    save_file({**tensors_of(arch), NAME: torch.ones(24, 15)}, tmp_path / "model.safetensors")
    with pytest.raises(DataError, match=r"has shape \[24, 15\]; want \[24, 16\]"):
        HfDirectory(tmp_path, arch).read(NAME, [TOP])


def test_directory_without_safetensors_is_refused(arch: ModelArch, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"neither model\.safetensors nor"):
        HfDirectory(tmp_path, arch)
