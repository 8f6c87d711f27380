"""Rotary frequencies of a Hugging Face model: default, linear, Llama 3 and YaRN scaling.

Megatron's own scaling fixes Llama 3's constants, so the frequencies are computed here and given to its rotary module.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from nemo_acereason.config.model_arch import ModelArch
from nemo_acereason.errors import ConfigError


def rope_frequencies(arch: ModelArch) -> tuple[torch.Tensor, float]:
    """Inverse frequencies and the factor on cosine and sine.

    Returns:
        ``([head_dim / 2] float32 in radians per position, attention factor)``.
    Raises:
        ConfigError: a scaling that is not supported.
    Source: Llama 3 arXiv:2407.21783; YaRN arXiv:2309.00071 sec. 3.
    """
    exponent = torch.arange(0, arch.head_dim, 2, dtype=torch.int64).float() / arch.head_dim
    inv_freq = 1.0 / (arch.rope_theta**exponent)
    scaling = arch.rope_scaling
    if not scaling:
        return inv_freq, 1.0
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    try:
        if kind == "linear":
            return inv_freq / float(scaling["factor"]), 1.0
        if kind == "llama3":
            return _llama3(inv_freq, scaling), 1.0
        if kind == "yarn":
            return _yarn(inv_freq, scaling, arch)
    except KeyError as error:
        raise ConfigError(f"rope_scaling of type {kind!r} has no key {error}; want a whole config.json") from None
    raise ConfigError(f"rope_scaling of type {kind!r} is not supported; want linear, llama3 or yarn")


def _llama3(inv_freq: torch.Tensor, scaling: Mapping[str, Any]) -> torch.Tensor:
    """Long waves are slowed by ``factor``, short ones stay, those between are blended."""
    factor, low, high = (float(scaling[key]) for key in ("factor", "low_freq_factor", "high_freq_factor"))
    turns = float(scaling["original_max_position_embeddings"]) * inv_freq / (2 * math.pi)
    blend = ((turns - low) / (high - low)).clamp(0.0, 1.0)
    return blend * inv_freq + (1 - blend) * inv_freq / factor


def _yarn(inv_freq: torch.Tensor, scaling: Mapping[str, Any], arch: ModelArch) -> tuple[torch.Tensor, float]:
    factor = float(scaling["factor"])
    original = float(scaling.get("original_max_position_embeddings") or arch.max_positions)

    def dim_of(num_turns: float) -> float:
        return arch.head_dim * math.log(original / (num_turns * 2 * math.pi)) / (2 * math.log(arch.rope_theta))

    low, high = dim_of(float(scaling.get("beta_fast") or 32)), dim_of(float(scaling.get("beta_slow") or 1))
    if scaling.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, arch.head_dim - 1)
    if low == high:
        high += 0.001  # both bounds in one dim: a step instead of a ramp
    ramp = ((torch.arange(arch.head_dim // 2, dtype=torch.float32) - low) / (high - low)).clamp(0.0, 1.0)

    def mscale(weight: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0

    attention_factor = scaling.get("attention_factor")
    if attention_factor is None:
        if scaling.get("mscale") and scaling.get("mscale_all_dim"):
            attention_factor = mscale(float(scaling["mscale"])) / mscale(float(scaling["mscale_all_dim"]))
        else:
            attention_factor = mscale(1.0)
    return inv_freq * (1 - ramp) + inv_freq / factor * ramp, float(attention_factor)
