from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.loggers import Logger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from nemo_acereason.config.schema import LogConfig
from nemo_acereason.errors import ConfigError
from nemo_acereason.observe.jsonl import append_lines, read_lines
from nemo_acereason.observe.log import RunLog, log_stop, read_metrics, telling_samples
from nemo_acereason.records import Prompt, Sample, Score, ScoredGroup, Verdict

GIVEN: list[tuple[int | None, dict[str, Any]]] = []


class MemoryLogger(Logger):
    """A user's own logger: keeps what it is given in ``GIVEN``."""

    def __init__(self, *, fail: bool = False) -> None:
        super().__init__()
        if fail:
            raise ValueError("told to\nfail")
        GIVEN.clear()

    @property
    def name(self) -> str:
        return "memory"

    @property
    def version(self) -> int:
        return 0

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        GIVEN.append((step, metrics))

    def log_hyperparams(self, params: dict[str, Any]) -> None:  # type: ignore[override]
        GIVEN.append((None, params))


OWN = f"{__name__}:MemoryLogger"


def group(name: str, *verdicts: Verdict) -> ScoredGroup:
    return ScoredGroup(
        Prompt(name, "1+1", "2", "math", "User: 1+1", (1, 2)),
        tuple(Sample((5,), (-0.1,), f"{name}.{i}", "stop", 0) for i in range(len(verdicts))),
        tuple(Score.of(verdict, detail="why") for verdict in verdicts),
    )


def tensorboard_scalars(run_dir: Path, tag: str) -> dict[int, float]:
    events = EventAccumulator(str(run_dir / "tensorboard"))
    events.Reload()
    return {event.step: event.value for event in events.Scalars(tag)}


def test_rows_and_events_are_told_apart(tmp_path: Path) -> None:
    log = RunLog(tmp_path)
    log.log_event("stage_start", 0, stage="sft")
    log.log_step("sft", 1, {"loss": torch.tensor(0.5), "num_groups": 3}, stage_step=1)
    log.log_event("evaluation", 1, stage="sft", when="after", name="heldout", metrics={"avg@8": 0.25})
    log.close()
    log.close()
    (row,), events = read_metrics(tmp_path)
    assert row.pop("time") > 1.6e9
    assert row == {"step": 1, "stage": "sft", "stage_step": 1, "loss": 0.5, "num_groups": 3}
    assert [(event["event"], event["step"]) for event in events] == [("stage_start", 0), ("evaluation", 1)]
    assert events[1]["metrics"] == {"avg@8": 0.25}
    assert tensorboard_scalars(tmp_path, "loss") == {1: 0.5}
    assert tensorboard_scalars(tmp_path, "evaluation/heldout/avg@8") == {1: 0.25}


def test_resume_drops_later_lines_everywhere(tmp_path: Path) -> None:
    log = RunLog(tmp_path)
    for step in range(1, 6):
        log.log_step("math", step, {"loss": step / 10}, stage_step=step)
        log.log_samples("math", step, [group(f"p{step}", Verdict.CORRECT)], 1)
    append_lines(tmp_path / "evaluations" / "heldout.jsonl", [{"step": 0}, {"step": 5}])
    with log.metrics_file.open("a") as file:
        file.write('{"step": 6, "lo')
    log.close()

    resumed = RunLog(tmp_path)
    resumed.resume_at(2)
    resumed.log_step("math", 3, {"loss": 0.9}, stage_step=3)
    resumed.close()
    rows, events = read_metrics(tmp_path)
    assert [(row["step"], row["loss"]) for row in rows] == [(1, 0.1), (2, 0.2), (3, 0.9)]
    assert [(event["event"], event["step"]) for event in events] == [("resume", 2)]
    assert [row["step"] for row in read_lines(tmp_path / "samples.jsonl")] == [1, 2]
    assert read_lines(tmp_path / "evaluations" / "heldout.jsonl") == [{"step": 0}]
    assert tensorboard_scalars(tmp_path, "loss") == pytest.approx({1: 0.1, 2: 0.2, 3: 0.9})


def test_start_over_without_a_checkpoint_keeps_no_step(tmp_path: Path) -> None:
    log = RunLog(tmp_path)
    log.log_event("stage_start", 0, stage="math")
    log.log_step("math", 1, {"loss": 0.1}, stage_step=1)
    log.resume_at(0)
    rows, events = read_metrics(tmp_path)
    assert rows == []
    assert [event["event"] for event in events] == ["stage_start", "resume"]


def test_new_run_has_nothing_to_resume(tmp_path: Path) -> None:
    RunLog(tmp_path).resume_at(0)
    assert read_metrics(tmp_path) == ([], [])


def test_stop_is_recorded_after_the_last_step(tmp_path: Path) -> None:
    log_stop(tmp_path, "killed before the first step")
    append_lines(tmp_path / "metrics.jsonl", [{"step": 4, "stage": "math", "stage_step": 4, "time": 0.0}])
    log_stop(tmp_path, "killed")
    _, events = read_metrics(tmp_path)
    assert [(event["event"], event["step"], event["reason"]) for event in events] == [
        ("stop", 0, "killed before the first step"),
        ("stop", 4, "killed"),
    ]


def test_samples_hold_what_a_person_wants_to_read(tmp_path: Path) -> None:
    RunLog(tmp_path).log_samples("math", 4, [group("p", Verdict.WRONG)], limit=4)
    assert read_lines(tmp_path / "samples.jsonl") == [
        {
            "step": 4,
            "stage": "math",
            "prompt_id": "p",
            "prompt": "User: 1+1",
            "reference": "2",
            "response": "p.0",
            "num_tokens": 1,
            "finish_reason": "stop",
            "verdict": "wrong",
            "reward": 0.0,
            "detail": "why",
        }
    ]


def test_chosen_samples_alternate_and_spread_over_prompts() -> None:
    correct, wrong = Verdict.CORRECT, Verdict.WRONG
    groups = [group("a", correct, correct, wrong, wrong), group("b", wrong, correct), group("c", wrong, wrong)]
    assert [sample.text for _, sample, _ in telling_samples(groups, 5)] == ["a.0", "a.2", "b.1", "b.0", "a.1"]
    assert len(telling_samples(groups, 100)) == 8
    assert telling_samples(groups, 0) == []


def test_own_logger_gets_plan_and_steps(tmp_path: Path) -> None:
    log = RunLog(tmp_path, LogConfig(loggers=[OWN]), plan={"seed": 3})
    log.log_step("math", 7, {"loss": 0.5}, stage_step=2)
    assert GIVEN == [(None, {"seed": 3}), (7, {"loss": 0.5})]


def test_csv_logger_writes_its_file(tmp_path: Path) -> None:
    log = RunLog(tmp_path, LogConfig(loggers=["csv"]))
    log.log_step("math", 1, {"loss": 0.5}, stage_step=1)
    assert (tmp_path / "csv" / "version_0" / "metrics.csv").read_text().split() == ["loss,step", "0.5,1"]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (LogConfig(loggers=["wanbd"]), "log.loggers=wanbd: want one of wandb, mlflow, csv, or module:Class"),
        (LogConfig(loggers=["no.such.module:Logger"]), "cannot be imported"),
        (LogConfig(loggers=["pathlib:Path"]), "gives a PosixPath; want a lightning"),
        (LogConfig(logger_options={"csv": {}}), "logger_options has csv, which log.loggers does not name"),
        (LogConfig(loggers=["csv"], logger_options={"csv": {"nmae": 1}}), "nmae.*mend the options"),
        (LogConfig(loggers=[OWN], logger_options={OWN: {"fail": True}}), "told to fail; mend the options"),
    ],
)
def test_wrong_logger_is_one_line_at_construction(tmp_path: Path, config: LogConfig, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        RunLog(tmp_path, config)
    assert "\n" not in str(caught.value)


def test_missing_logger_package_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lightning.pytorch.loggers import wandb

    monkeypatch.setattr(wandb, "_WANDB_AVAILABLE", _Missing())
    with pytest.raises(
        ConfigError, match=r"log\.loggers=wandb: .*not met.*install the package or leave the logger out"
    ):
        RunLog(tmp_path, LogConfig(loggers=["wandb"]))


class _Missing:
    """What Lightning holds where a package is not installed."""

    def __bool__(self) -> bool:
        return False

    def __str__(self) -> str:
        return "Requirement 'wandb' not met"
