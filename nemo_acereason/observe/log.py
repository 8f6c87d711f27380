"""What a run writes about itself while it runs: ``RUN/metrics.jsonl``, ``RUN/samples.jsonl``, TensorBoard and the like.

Held by rank 0 alone. Nothing is computed here (:mod:`nemo_acereason.observe.metrics`) and nothing is drawn
(:mod:`nemo_acereason.evaluation.report`).

``metrics.jsonl`` has two kinds of lines. A *row* is one optimizer step: ``step`` (over all stages), ``stage``,
``stage_step`` (both steps count from 1), ``time`` (unix seconds) and every metric. An *event* also has ``event``:
``stage_start``, ``prompt_filter``, ``guard_rail``, ``evaluation``, ``stage_end``, ``resume`` or ``stop``.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nemo_acereason.config.schema import LogConfig
from nemo_acereason.errors import ConfigError
from nemo_acereason.observe.jsonl import append_lines, drop_after, read_lines
from nemo_acereason.records import Sample, Score, ScoredGroup, StageHistory, Verdict

if TYPE_CHECKING:
    from lightning.pytorch.loggers import Logger


SAMPLES_FILE = "samples.jsonl"


class RunLog:
    """Writes one run's records, each line on disk before the call returns.

    Args:
        run_dir: made if it is not there.
        config: further loggers and their options.
        plan: the resolved plan as plain values, shown by loggers that show such things.
    Raises:
        ConfigError: a logger of ``config`` is unknown, its package is missing, or it refuses its options.
    """

    def __init__(self, run_dir: Path, config: LogConfig | None = None, plan: Mapping[str, Any] | None = None) -> None:
        self.run_dir = Path(run_dir)
        self.run_dir.mkdir(parents=True, exist_ok=True)
        config = config or LogConfig()
        unused = sorted(set(config.logger_options) - set(config.loggers))
        if unused:
            raise ConfigError(f"log.logger_options has {unused[0]}, which log.loggers does not name; add it there")
        # Lightning takes seconds to import: only who writes a run pays for it, not who reads one.
        from nemo_acereason.observe import loggers

        self._make_tensorboard = loggers.make_tensorboard
        self._tensorboard: Logger = self._make_tensorboard(self.run_dir)
        self._further: list[Logger] = [
            loggers.make_logger(name, self.run_dir, config.logger_options.get(name, {})) for name in config.loggers
        ]
        if plan is not None:
            for logger in self._further:
                logger.log_hyperparams(dict(plan))

    @property
    def metrics_file(self) -> Path:
        return self.run_dir / "metrics.jsonl"

    @property
    def samples_file(self) -> Path:
        return self.run_dir / SAMPLES_FILE

    def log_step(self, stage: str, step: int, metrics: Mapping[str, float], *, stage_step: int) -> None:
        """One optimizer step, to every logger.

        Args:
            step: over all stages, from 1.
            stage_step: inside the stage, from 1.
        """
        values = {name: _plain(value) for name, value in metrics.items()}
        head = {"step": step, "stage": stage, "stage_step": stage_step, "time": time.time()}
        append_lines(self.metrics_file, [{**head, **values}])
        for logger in (self._tensorboard, *self._further):
            logger.log_metrics(values, step=step)
            logger.save()

    def log_event(self, event: str, step: int, **fields: Any) -> None:
        """Something that is not a step: ``stage_start``, ``stage_end``, ``evaluation``, ``resume``.

        Args:
            step: the last optimizer step before it; 0 before the first.
            fields: plain JSON; numbers inside ``metrics={...}`` also go to the loggers, as ``EVENT/NAME/metric``
                when there is a ``name`` among the fields.
        """
        append_lines(self.metrics_file, [{"event": event, "step": step, "time": time.time(), **fields}])
        path = "/".join([event, *([fields["name"]] if "name" in fields else [])])
        values = {f"{path}/{name}": _plain(value) for name, value in fields.get("metrics", {}).items()}
        if values:
            for logger in (self._tensorboard, *self._further):
                logger.log_metrics(values, step=step)
                logger.save()

    def log_samples(self, stage: str, step: int, groups: Sequence[ScoredGroup], limit: int) -> None:
        """Some scored responses for a person to read, correct and other ones in turn, from different prompts first."""
        append_samples(self.run_dir, stage, step, groups, limit)

    def resume_at(self, step: int) -> None:
        """Forget everything after ``step``, in metrics, samples, evaluations and TensorBoard, and log a ``resume``.

        A run killed at step k+3 and resumed from its checkpoint at k would else hold steps k+1 to k+3 twice. Call it
        at every start, with 0 when there is no checkpoint: a new run has nothing to forget and logs no ``resume``.
        """
        if not self.metrics_file.exists():
            return
        for path in (self.metrics_file, self.samples_file, *sorted((self.run_dir / "evaluations").glob("*.jsonl"))):
            drop_after(path, step)
        self._tensorboard = self._make_tensorboard(self.run_dir, purge_step=step + 1)
        self.log_event("resume", step)

    def close(self) -> None:
        """Flush and end the loggers; safe to call twice."""
        for logger in (self._tensorboard, *self._further):
            logger.finalize("success")


def append_samples(run_dir: Path, stage: str, step: int, groups: Sequence[ScoredGroup], limit: int) -> None:
    """As :meth:`RunLog.log_samples`, for who keeps no other records."""
    append_lines(
        run_dir / SAMPLES_FILE,
        [
            {
                "step": step,
                "stage": stage,
                "prompt_id": group.prompt.prompt_id,
                "prompt": group.prompt.text,
                "reference": group.prompt.reference,
                "response": sample.text,
                "num_tokens": len(sample.token_ids),
                "finish_reason": sample.finish_reason,
                "verdict": score.verdict.value,
                "reward": score.reward,
                "detail": score.detail,
            }
            for group, sample, score in telling_samples(groups, limit)
        ],
    )


def read_metrics(run_dir: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows (one per optimizer step) and events of a run, each in the order written; both empty before the first."""
    lines = read_lines(Path(run_dir) / "metrics.jsonl")
    return [line for line in lines if "event" not in line], [line for line in lines if "event" in line]


def read_history(run_dir: Path, stage: str) -> StageHistory:
    """What a stage has reported so far, and the last evaluation of each held-out set before it."""
    lines = read_lines(Path(run_dir) / "metrics.jsonl")
    evaluations: dict[str, dict[str, Any]] = {}
    of_stage: list[Mapping[str, Any]] = []
    for line in lines:
        if line.get("event") == "evaluation":
            if line["stage"] == stage:
                of_stage.append(line)
            else:
                evaluations[line["name"]] = line
    steps: list[Mapping[str, Any]] = [line for line in lines if "event" not in line and line["stage"] == stage]
    return StageHistory(steps, [*evaluations.values(), *of_stage])


def log_stop(run_dir: Path, reason: str) -> None:
    """Say at the end of a run's records why it stopped short; for who watches the run from outside its ranks."""
    _log_from_outside(run_dir, "stop", reason=reason)


def log_plan_change(run_dir: Path, step: int, changes: Sequence[str]) -> None:
    """The run goes on behind ``step`` with other settings than it began with: each as ``key: old -> new``."""
    row = {"event": "plan_change", "step": step, "time": time.time(), "changes": list(changes)}
    append_lines(Path(run_dir) / "metrics.jsonl", [row])


def log_driver_memory(run_dir: Path, num_bytes: int) -> None:
    """The peak memory of the process that started the ranks, which alone knows it and outlives them."""
    _log_from_outside(run_dir, "ranks_ended", **{"memory/driver_bytes": num_bytes})


def _log_from_outside(run_dir: Path, event: str, **fields: Any) -> None:
    path = Path(run_dir) / "metrics.jsonl"
    step = max((line["step"] for line in read_lines(path)), default=0)
    append_lines(path, [{"event": event, "step": step, "time": time.time(), **fields}])


def telling_samples(groups: Sequence[ScoredGroup], limit: int) -> list[tuple[ScoredGroup, Sample, Score]]:
    """Up to ``limit`` samples, correct and other ones in turn, each prompt's first before any prompt's second."""
    correct: list[tuple[int, int, int]] = []
    other: list[tuple[int, int, int]] = []
    for group_index, group in enumerate(groups):
        taken = {True: 0, False: 0}
        for sample_index, score in enumerate(group.scores):
            is_correct = score.verdict is Verdict.CORRECT
            (correct if is_correct else other).append((taken[is_correct], group_index, sample_index))
            taken[is_correct] += 1
    correct.sort()
    other.sort()
    chosen: list[tuple[int, int, int]] = []
    while len(chosen) < limit and (correct or other):
        for pile in (correct, other):
            if pile and len(chosen) < limit:
                chosen.append(pile.pop(0))
    return [(groups[g], groups[g].samples[s], groups[g].scores[s]) for _, g, s in chosen]


def _plain(value: Any) -> float:
    """A number as Python has it, for tensors and numpy scalars too; integers stay integers."""
    value = value.item() if hasattr(value, "item") else value
    return value if isinstance(value, int) else float(value)
