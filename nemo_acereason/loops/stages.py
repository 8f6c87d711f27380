"""The plan, stage by stage: evaluate, train, evaluate, checkpoint; the next stage goes on with the same weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nemo_acereason.config.schema import StageConfig
from nemo_acereason.loops.run import Run, Stream


@dataclass(frozen=True)
class ReadyStage:
    """A stage with its data opened and its loop bound."""

    name: str
    config: StageConfig
    stream: Stream
    train: Callable[[Run, int], str]
    """From the run and the first step to the reason the stage ended."""


def run_stages(run: Run, stages: Sequence[ReadyStage], resume: Mapping[str, Any] | None) -> None:
    """Run the stages in order, on every rank together.

    Args:
        resume: the state of the checkpoint that the trainer was loaded from; None for a new run.
    """
    first, first_step = 0, 1
    if resume:
        first = [stage.name for stage in stages].index(resume["stage"])
        stages[first].stream.restore(resume["data"])
        first_step = resume["stage_step"] + 1
        if resume["is_stage_end"]:
            first, first_step = first + 1, 1
    for index, stage in enumerate(stages[first:], start=first):
        run.begin_stage(stage.name, stage.config, first_step=first_step)
        if index == 0 and first_step == 1:
            run.evaluate(stage.name, "before")
        reason = stage.train(run, first_step)
        if stage.config.evaluate:
            run.evaluate(stage.name, "after")
        run.end_stage(stage.name, reason, num_dropped=stage.stream.num_dropped)
        run.save(stage.name, stage.config.num_steps, stage.stream, is_stage_end=True)
        first_step = 1
