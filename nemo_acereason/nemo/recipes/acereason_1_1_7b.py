"""AceReason-Nemotron 1.1 7B under NeMo's trainer: the stages of the recipe ``acereason_1_1_7b``, one job each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nemo_run as run

from nemo_acereason.nemo.recipes._stage import stage_recipe

NAME = "acereason_1_1_7b"
FEW_NODES = ["rollout.gpu_memory_utilization=0.5"]
"""What RL on fewer than ``ENOUGH_NODES`` of 8 GPUs changes of that plan: they hold the optimizer's state that its 128
share, and the engines besides. By the memory model of ``acereason plan --cluster``, which refuses the plan's 0.75."""
ENOUGH_NODES = 4


def finetune_recipe(
    model_dir: str,
    start: str,
    *,
    dir: str = "nemo_experiments",  # noqa: A002 - as NeMo's recipes name it
    name: str = f"{NAME}_sft",
    num_nodes: int = 1,
    num_gpus_per_node: int = 8,
    recipe: str = NAME,
    stage: str = "sft",
    changes: list[str] | None = None,
) -> run.Partial[Callable[..., Path]]:
    """The SFT cold start; arguments as :func:`nemo_acereason.nemo.recipes._stage.stage_recipe`."""
    return stage_recipe(
        recipe,
        stage,
        model_dir,
        start,
        dir=dir,
        name=name,
        num_nodes=num_nodes,
        num_gpus_per_node=num_gpus_per_node,
        changes=changes,
    )


def rl_recipe(
    model_dir: str,
    start: str,
    stage: str = "math_8k",
    *,
    dir: str = "nemo_experiments",  # noqa: A002 - as NeMo's recipes name it
    name: str = "",
    num_nodes: int = 1,
    num_gpus_per_node: int = 8,
    recipe: str = NAME,
    changes: list[str] | None = None,
) -> run.Partial[Callable[..., Path]]:
    """An RL stage by its name; arguments as :func:`nemo_acereason.nemo.recipes._stage.stage_recipe`."""
    return stage_recipe(
        recipe,
        stage,
        model_dir,
        start,
        dir=dir,
        name=name or f"{NAME}_{stage}",
        num_nodes=num_nodes,
        num_gpus_per_node=num_gpus_per_node,
        changes=changes,
        beside_engines=FEW_NODES if recipe == NAME and num_nodes < ENOUGH_NODES else (),
    )
