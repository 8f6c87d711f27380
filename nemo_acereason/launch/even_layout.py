"""Whether a layout cuts a model evenly, for the trainer and for the engines. Pure arithmetic; no memory, no devices."""

from __future__ import annotations

from nemo_acereason.config.model_arch import ModelArch
from nemo_acereason.config.schema import RolloutConfig, TrainerConfig
from nemo_acereason.errors import ConfigError
from nemo_acereason.resharding.layout import check_layout, padded_vocab_size

SCRIPTED = "scripted"
"""The engine that has no weights."""


def uneven(arch: ModelArch, size: int, what: str) -> str:
    """Why a tensor-parallel size does not cut a model, or nothing."""
    parts = {
        "heads": arch.num_heads,
        "KV heads": arch.num_query_groups,
        "MLP columns": arch.ffn_size,
        "vocabulary rows": padded_vocab_size(arch.vocab_size),
    }
    wrong = next((name for name, number in parts.items() if number % size), None)
    if wrong is None:
        return ""
    fitting = [str(n) for n in range(1, arch.num_heads + 1) if all(number % n == 0 for number in parts.values())]
    return f"{parts[wrong]} {wrong} do not divide over {what}={size}; use {listed(fitting)}"


def listed(values: list[str]) -> str:
    """As a sentence has them."""
    return values[0] if len(values) == 1 else f"{', '.join(values[:-1])} or {values[-1]}"


def check_even(name: str, arch: ModelArch, trainer: TrainerConfig, rollout: RolloutConfig) -> None:
    """Refuse a layout of stage ``name`` that does not.

    Raises:
        ConfigError: what does not divide, and the sizes that do.
    """
    if wrong := uneven(arch, trainer.tensor_parallel, "tensor_parallel"):
        raise ConfigError(f"stage {name}: {wrong}")
    if arch.num_layers % trainer.pipeline_parallel == 0:
        # what is left to refuse are slices of the stages
        check_layout(
            arch,
            tensor_parallel=trainer.tensor_parallel,
            pipeline_parallel=trainer.pipeline_parallel,
            virtual_pipeline=trainer.virtual_pipeline,
        )
    else:
        fitting = [str(n) for n in range(1, 17) if arch.num_layers % n == 0]
        raise ConfigError(
            f"stage {name}: {arch.num_layers} layers do not divide over pipeline_parallel="
            f"{trainer.pipeline_parallel}; use {listed(fitting)}"
        )
    size, groups = rollout.tensor_parallel, arch.num_query_groups
    # an engine copies KV heads where it has more processes than they are
    if rollout.engine != SCRIPTED and (arch.num_heads % size or (groups % size and size % groups)):
        fitting = [
            str(n)
            for n in range(1, arch.num_heads + 1)
            if arch.num_heads % n == 0 and (groups % n == 0 or n % groups == 0)
        ]
        raise ConfigError(
            f"stage {name}: {arch.num_heads} heads and {groups} KV heads do not divide over "
            f"rollout.tensor_parallel={size}; use {listed(fitting)}"
        )
