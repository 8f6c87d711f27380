"""``acereason plan``: the stages of a plan as a table."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table

from nemo_acereason.config.schema import GrpoStage, Plan, SftStage, StageConfig

WIDTH_OF_A_FILE = 120
"""Characters of a line where there is no terminal."""


def show_plan(plan: Plan, console: Console | None = None) -> None:
    """Print what would run, stage by stage."""
    console = console or Console()
    if not console.is_terminal:
        console = Console(width=WIDTH_OF_A_FILE, file=console.file)
    trainer = plan.trainer
    num_ranks = trainer.tensor_parallel * trainer.pipeline_parallel * trainer.data_parallel
    console.print(f"{plan.name}: {plan.description}", highlight=False, soft_wrap=True)
    console.print(
        f"model {plan.model.path or 'from nothing'}; {num_ranks} trainer processes "
        f"(TP {trainer.tensor_parallel}, PP {trainer.pipeline_parallel}, DP {trainer.data_parallel}, {trainer.dtype}); "
        f"engine {plan.rollout.engine}; seed {plan.seed}",
        highlight=False,
        soft_wrap=True,
    )
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for heading in ("stage", "kind", "steps", "batch", "tokens", "T", "learning rate", "data", "reward"):
        table.add_column(heading, no_wrap=heading in ("stage", "kind", "steps", "batch"), overflow="fold")
    for name, stage in plan.stages.items():
        table.add_row(name, stage.kind, str(stage.num_steps), *_row(stage))
    console.print(table)
    for name, evaluation in plan.evaluations.items():
        console.print(
            f"held out: {name}, avg@{evaluation.num_samples}, T {evaluation.temperature:g}, "
            f"top-p {evaluation.top_p:g}, {evaluation.data.source}",
            highlight=False,
            soft_wrap=True,
        )


def _row(stage: StageConfig) -> list[str]:
    rate = f"{stage.optimizer.learning_rate:g} {stage.optimizer.schedule}"
    source = stage.data.source.rpartition("/")[2]
    if ":" in source:  # of a dotted module, its last name
        source = ":".join(part.rpartition(".")[2] for part in source.split(":"))
    if isinstance(stage, SftStage):
        return [f"{stage.sequences_per_step}", f"{stage.max_response_tokens}", "", rate, source, ""]
    assert isinstance(stage, GrpoStage)
    batch = f"{stage.prompts_per_step} x {stage.num_samples}"
    reward = stage.reward.function.rpartition(":")[2]
    return [batch, f"{stage.max_response_tokens}", f"{stage.temperature:g}", rate, source, reward]
