"""Where a run is, by what lies in its directory; which log tells about its last stop."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from nemo_acereason.config.load import load_plan, plan_yaml
from nemo_acereason.errors import ConfigError
from nemo_acereason.launch.attempts import Attempts
from nemo_acereason.launch.slurm import JobStep
from nemo_acereason.launch.status import find_log, run_status, status_lines
from nemo_acereason.observe.jsonl import append_lines
from nemo_acereason.observe.log import log_stop


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """The toy plan: its first stage is done, its second at step 2."""
    (tmp_path / "plan.yaml").write_text(plan_yaml(load_plan("tiny_cpu")))
    names = list(load_plan("tiny_cpu").stages)
    lines = [
        {"event": "stage_start", "step": 0, "stage": names[0], "time": 10.0},
        {"step": 1, "stage": names[0], "stage_step": 1, "time": 11.0},
        {"event": "stage_end", "step": 1, "stage": names[0], "time": 12.0},
        {"event": "stage_start", "step": 1, "stage": names[1], "time": 13.0},
        {"step": 2, "stage": names[1], "stage_step": 1, "time": 14.0},
        {"step": 3, "stage": names[1], "stage_step": 2, "time": 15.0},
    ]
    append_lines(tmp_path / "metrics.jsonl", lines)
    checkpoint = tmp_path / "checkpoints" / "step_000002"
    checkpoint.mkdir(parents=True)
    state = {"step": 2, "stage": names[1], "stage_step": 1, "is_stage_end": False}
    (checkpoint / "state.json").write_text(json.dumps(state))
    (tmp_path / "logs").mkdir()
    for name in ("rank_0.log", "rank_3.log", "engine.log", "stacks.txt"):
        (tmp_path / "logs" / name).write_text("something\n")
    return tmp_path


def test_stages_checkpoint_and_last_sign(run_dir: Path) -> None:
    status = run_status(run_dir)
    assert [(stage.state, stage.step) for stage in status.stages][:3] == [("done", 1), ("runs", 2), ("waits", 0)]
    assert (status.checkpoint, status.stop_reason, status.last_sign) == ("step_000002", "", 15.0)
    lines = status_lines(status, now=15.0 + 600)
    assert "last sign   10 min ago" in lines
    assert "last stop   none" in lines


def test_a_stop_is_told_until_the_run_goes_on(run_dir: Path) -> None:
    log_stop(run_dir, "rank 3 was killed by SIGKILL")
    status = run_status(run_dir)
    assert status.stop_reason == "rank 3 was killed by SIGKILL"
    assert status.stages[1].state == "stopped"
    append_lines(run_dir / "metrics.jsonl", [{"event": "resume", "step": 2, "time": time.time()}])
    assert run_status(run_dir).stop_reason == ""


def test_the_reason_of_a_start_that_never_reached_the_run_is_told(run_dir: Path) -> None:
    job = JobStep("5", 0, 0, 2, "node1")
    Attempts(run_dir).begin(job)
    Attempts(run_dir).end(job, 75, "node node2: 7 of 8 GPUs answer the driver")
    assert run_status(run_dir).stop_reason == "node node2: 7 of 8 GPUs answer the driver"


def test_what_a_start_was_told_before_it_was_killed_is_its_reason(run_dir: Path) -> None:
    log_stop(run_dir, "of the start before")
    job = JobStep("5", 1, 0, 2, "node1")
    Attempts(run_dir).begin(job)
    Attempts(run_dir).note(job, "asked to save by SIGTERM")
    assert run_status(run_dir).stop_reason == "asked to save by SIGTERM"


@pytest.mark.parametrize(
    ("reason", "log"),
    [
        ("rank 3: ZeroDivisionError", "rank_3.log"),
        ("phase train of step 7 takes more than 1 s: rank 3 sleeps; stacks in RUN/logs/stacks.txt", "stacks.txt"),
        ("the engine has said nothing for 60 s", "engine.log"),
        ("entropy collapsed", "rank_0.log"),
    ],
)
def test_the_log_that_tells_most_is_found(run_dir: Path, reason: str, log: str) -> None:
    log_stop(run_dir, reason)
    assert find_log(run_dir).name == log


def test_a_log_by_kind_and_the_newest_job_s(run_dir: Path) -> None:
    assert find_log(run_dir, "rank_3").name == "rank_3.log"
    with pytest.raises(ConfigError, match=r"no log 'rank_9'; there are engine, rank_0, rank_3, stacks"):
        find_log(run_dir, "rank_9")
    (run_dir / "slurm").mkdir()
    (run_dir / "slurm" / "job-7.out").write_text("step 1\n")
    assert find_log(run_dir).name == "job-7.out"


def test_a_directory_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"holds no plan.yaml"):
        run_status(tmp_path)
