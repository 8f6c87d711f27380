"""Progress for a person at a terminal, or one plain line per step for a log file. Shows; records nothing."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, TaskID, TextColumn
from rich.progress import Progress as Bars

from nemo_acereason.observe.metrics import step_seconds

NUM_STEPS_FOR_SPEED = 10  # the time left follows the present response length, not that of the first steps


class Progress:
    """A bar per stage with reward, length, tokens/s and time left; plain lines where there is no terminal.

    Args:
        stages: number of steps of each stage, in the order they run.
        console: None: standard output.
    """

    def __init__(self, stages: Mapping[str, int], console: Console | None = None) -> None:
        # A log file has no width to fit: a wrapped line would be two to grep through.
        self._console = console or Console(soft_wrap=True)
        self._stages = dict(stages)
        self._step_seconds: deque[float] = deque(maxlen=NUM_STEPS_FOR_SPEED)
        self._tasks: dict[str, TaskID] = {}
        self._width = max((len(name) for name in stages), default=0)
        self._bars: Bars | None = None
        if self._console.is_terminal:
            self._bars = Bars(
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                TextColumn("{task.completed}/{task.total}"),
                TextColumn("{task.fields[text]}", style="dim"),
                console=self._console,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars:
            self._bars.stop()

    def begin_stage(self, stage: str, stage_step: int = 0) -> None:
        """A stage starts, or goes on after ``stage_step`` steps."""
        self._step_seconds.clear()
        if self._bars:
            self._bars.start()  # not before: a rank without a log leaves the terminal alone
            self._tasks[stage] = self._bars.add_task(
                escape(stage.ljust(self._width)), total=self._stages[stage], completed=stage_step, text=""
            )

    def step(self, stage: str, stage_step: int, metrics: Mapping[str, float]) -> None:
        """Optimizer step ``stage_step`` (from 1) of the stage last begun is done."""
        self._step_seconds.append(step_seconds(metrics))
        text = "  ".join([*_figures(metrics), f"{_duration(self._seconds_left(stage, stage_step))} left"])
        if self._bars:
            self._bars.update(self._tasks[stage], completed=stage_step, text=text)
        else:
            total = self._stages[stage]
            self._console.print(f"{stage} {stage_step}/{total}  {text}", markup=False, highlight=False)

    def note(self, text: str) -> None:
        """A line above the bars, or among the plain lines."""
        self._console.print(text, markup=False, highlight=False)

    def _seconds_left(self, stage: str, stage_step: int) -> float:
        """Of the whole run, as if every later step took what this stage's last steps took."""
        names = list(self._stages)
        later = sum(self._stages[name] for name in names[names.index(stage) + 1 :])
        mean = sum(self._step_seconds) / len(self._step_seconds)
        return mean * (self._stages[stage] - stage_step + later)


def _figures(metrics: Mapping[str, float]) -> list[str]:
    texts = []
    if "reward_mean" in metrics:
        texts.append(f"reward {metrics['reward_mean']:.3f}")
    elif "loss" in metrics:
        texts.append(f"loss {metrics['loss']:.4f}")
    if "response_tokens_mean" in metrics:
        texts.append(f"length {metrics['response_tokens_mean']:.0f}")
    if "tokens_per_s" in metrics:
        texts.append(f"{metrics['tokens_per_s']:,.0f} tokens/s")
    return texts


def _duration(seconds: float) -> str:
    """
    >>> _duration(3725)
    '1:02:05'
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
