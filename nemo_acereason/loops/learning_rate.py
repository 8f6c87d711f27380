"""A stage's learning rate, from its configuration."""

from __future__ import annotations

from nemo_acereason.algorithm.lr_schedule import learning_rate_at
from nemo_acereason.config.schema import StageConfig


def stage_learning_rate(stage: StageConfig, step: int) -> float:
    """Learning rate of ``step`` (from 1) of the stage."""
    optimizer = stage.optimizer
    return learning_rate_at(
        step,
        peak=optimizer.learning_rate,
        lowest=optimizer.min_learning_rate,
        warmup_steps=optimizer.warmup_steps,
        num_steps=stage.num_steps,
        schedule=optimizer.schedule,
    )
