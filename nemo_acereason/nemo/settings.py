"""A plan under NeMo's trainer: which of its settings Megatron is given, which are refused, which are left out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from nemo_acereason.config.schema import GrpoStage, Plan, TrainerConfig
from nemo_acereason.errors import ConfigError
from nemo_acereason.trainer.model import recompute_and_fp8, uses_transformer_engine

OWN_LOOP = "nemo_acereason.loops.grpo:train_grpo"
FP8_RECIPES = ("delayed", "tensorwise", "blockwise")
"""Of Transformer Engine's, those that ``trainer.fp8`` takes too: what :func:`tokens_multiple` pads for."""


def check_stage(plan: Plan, name: str, num_nodes: int, gpus_per_node: int) -> None:
    """Refuse what would train something else than the plan says.

    Args:
        plan: with the stage's own settings in place of the general ones.
        num_nodes, gpus_per_node: of NeMo's trainer.
    Raises:
        ConfigError: the first such setting, and what to do.
    """
    stage, trainer = plan.stages[name], plan.trainer
    refused = [
        (trainer.overlap_param_gather, "trainer.overlap_param_gather=true", "set it to false"),
    ]
    if isinstance(stage, GrpoStage):
        copy = trainer.tensor_parallel * trainer.pipeline_parallel * trainer.context_parallel
        is_to_count = bool(stage.prompt_filter.keep.function) and not stage.prompt_filter.file
        refused += [
            (
                num_nodes > 1 and gpus_per_node % copy > 0 and not plan.rollout.nodes,
                f"{copy} trainer ranks to a copy of the model with num_gpus_per_node={gpus_per_node}",
                "each node's engines get their weights from its own ranks: lower trainer.pipeline_parallel, or give "
                "them nodes of their own by rollout.nodes",
            ),
            (
                is_to_count,
                f"stages.{name}.prompt_filter.keep without a file",
                f"nothing counts pass rates here: give stages.{name}.prompt_filter.file, or set keep.function to ''",
            ),
            (stage.loop != OWN_LOOP, f"stages.{name}.loop={stage.loop}", "NeMo's trainer is the loop"),
        ]
    for is_set, setting, advice in refused:
        if is_set:
            raise ConfigError(f"{setting}: not under NeMo's trainer; {advice}")


def left_out(plan: Plan, name: str) -> list[str]:
    """Settings of a stage that nothing here acts upon, though the plan has them; ``plan`` as :func:`check_stage`."""
    stage = plan.stages[name]
    found: dict[str, object] = {
        "evaluations": plan.evaluations and (stage.evaluate or stage.evaluate_every or stage.evaluate_each_epoch),
        "checkpoint.keep_best": plan.checkpoint.keep_best,
    }
    if isinstance(stage, GrpoStage):
        found["rollout.sleep_level"] = plan.rollout.sleep_level
    return [setting for setting, is_set in found.items() if is_set]


def engines_that_fit(plan: Plan, num_nodes: int, gpus_per_node: int) -> int:
    """As many of the plan's engines as their nodes' GPUs hold, all nodes being alike.

    Args:
        gpus_per_node: on a CPU, of trainer processes.
    """
    num_nodes = plan.rollout.nodes or num_nodes
    return min(plan.rollout.num_engines, num_nodes * max(gpus_per_node // plan.rollout.tensor_parallel, 1))


def megatron_settings(trainer: TrainerConfig) -> dict[str, Any]:
    """What the model's config has of a plan's trainer settings, besides those that NeMo's strategy brings."""
    return {
        **recompute_and_fp8(trainer),
        "gradient_accumulation_fusion": trainer.gradient_accumulation_fusion,
    }


def in_effect(trainer: TrainerConfig, config: Any) -> TrainerConfig:
    """A plan's settings as NeMo's strategy and precision plugin have them, which users change without the plan.

    Args:
        config: of NeMo's model, once the strategy took it.
    """
    return replace(
        trainer,
        tensor_parallel=config.tensor_model_parallel_size,
        pipeline_parallel=config.pipeline_model_parallel_size,
        virtual_pipeline=config.virtual_pipeline_model_parallel_size or 1,
        sequence_parallel=config.sequence_parallel,
        fp8=str(getattr(config.fp8_recipe, "value", config.fp8_recipe)) if config.fp8 else "",
        fp8_bf16_layers=config.num_layers_at_start_in_bf16 if config.fp8 and config.first_last_layers_bf16 else 0,
    )


def check_precision(trainer: TrainerConfig, config: Any) -> None:
    """Refuse a precision that the plan does not have, or that cannot be had here; arguments as :func:`in_effect`.

    Raises:
        ConfigError: the first such setting, and what to do.
    """
    fp8 = in_effect(trainer, config).fp8
    for is_set, said in (
        (config.fp16, "fp16: the loss is not scaled here; use bf16-mixed"),
        (
            config.bf16 != (trainer.dtype == "bfloat16"),
            f"bf16={config.bf16} with trainer.dtype={trainer.dtype}, which the engines have; make them agree",
        ),
        (getattr(config, "fp4", None), "fp4: nothing here was made for it; leave it out"),
        (
            fp8 not in ("", *FP8_RECIPES),
            f"fp8_recipe={fp8}: microbatches are not padded for it; use {', '.join(FP8_RECIPES)}",
        ),
        (
            getattr(config, "fp8_param", False),
            "fp8_param_gather=true: engines are sent bfloat16 weights, of which none would be left; set it to false",
        ),
        (
            trainer.fp8 and not fp8,
            f"no fp8, but trainer.fp8={trainer.fp8}: give the plugin fp8 and fp8_recipe too, or leave the plugin out",
        ),
        (
            fp8 and not uses_transformer_engine(),
            f"fp8={config.fp8} needs Transformer Engine and a CUDA device, and here are not both; leave it out",
        ),
    ):
        if is_set:
            raise ConfigError(f"precision of NeMo's model: {said}")
