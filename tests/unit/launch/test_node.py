"""The first node's decisions: which ends come back, and when a job gives up."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from nemo_acereason.errors import AceReasonError, ConfigError, EngineError, RunStopped, StopAsked
from nemo_acereason.launch import node
from nemo_acereason.launch.attempts import Attempts
from nemo_acereason.launch.health import SickNodes
from nemo_acereason.launch.local import RankFailure
from nemo_acereason.launch.nodes import Meeting
from nemo_acereason.launch.slurm import JobStep


def job(restart: int = 0, job_id: str = "5") -> JobStep:
    return JobStep(job_id, restart, 0, 2, "node1", "node[1-2]")


def checkpoint(run_dir: Path, step: int) -> None:
    directory = run_dir / "checkpoints" / f"step_{step:06d}"
    directory.mkdir(parents=True)
    (directory / "state.json").write_text(json.dumps({"step": step, "stage": "sft", "is_stage_end": False}))


def start(
    run_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException | None,
    restart: int = 0,
    *,
    with_sigterm: bool = False,
) -> int:
    """Exit status of a first node whose run ends with ``error``, behind a SIGTERM perhaps."""

    def run_plan(_meeting: Meeting, _last: str, on_asked: Callable[[], None]) -> None:
        if with_sigterm:
            on_asked()
        if error:
            raise error

    monkeypatch.setattr(node, "_run_plan", run_plan)
    return node.run_node(run_dir, job(restart))


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (None, 0),
        (StopAsked("asked to stop: saved behind step 3"), 75),
        (RankFailure("asked to stop: saved behind step 3", 75), 75),
        (RankFailure("rank 1 was killed", 1), 75),
        (EngineError("the engine is silent"), 75),
        (ConfigError("no such file"), 2),
        (RankFailure("stages.sft.data: line 3 is torn", 2), 2),
        (RunStopped("entropy collapsed"), 3),
        (RankFailure("entropy collapsed", 3), 3),
        (KeyboardInterrupt("SIGTERM"), 143),
    ],
)
def test_what_a_person_must_mend_does_not_come_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException | None, status: int
) -> None:
    assert start(tmp_path, monkeypatch, error) == status
    (attempt,) = Attempts(tmp_path).read()
    assert attempt.status == status
    assert attempt.nodes == "node[1-2]"
    assert attempt.reason == "all stages are done" if error is None else str(error) in attempt.reason


def test_a_job_that_gets_nowhere_gives_up_and_one_that_moves_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    killed = RankFailure("rank 1 was killed", 1)
    assert start(tmp_path, monkeypatch, killed, 0) == 75
    checkpoint(tmp_path, 4)
    assert [start(tmp_path, monkeypatch, killed, restart) for restart in (1, 2, 3)] == [75, 75, 1]
    assert "job 5 started 3 times without a new checkpoint: it does not come back" in capsys.readouterr().err
    checkpoint(tmp_path, 6)
    assert start(tmp_path, monkeypatch, killed, 4) == 75


def test_starts_that_were_killed_without_a_word_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for restart in range(3):
        Attempts(tmp_path).begin(job(restart))
    assert start(tmp_path, monkeypatch, None, 3) == 1
    assert [attempt.status for attempt in Attempts(tmp_path).read()] == [None, None, None, 1]
    assert Attempts(tmp_path).num_in_vain(job(0, "6")) == 0, "another job begins anew"


def test_sick_nodes_are_told_to_the_job_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sick = SickNodes("node node2: 7 of 8 GPUs answer the driver", ["node2", "node9"])
    assert start(tmp_path, monkeypatch, sick) == 75
    assert (tmp_path / "slurm" / "exclude").read_text() == "node2,node9"
    assert start(tmp_path, monkeypatch, RankFailure("the connection to node node3 is gone", 1, "node3"), 1) == 75
    assert (tmp_path / "slurm" / "exclude").read_text() == "node2,node9,node3"


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (RankFailure("asked to stop: saved behind step 3", 75), 75, "asked to stop: saved behind step 3"),
        (RankFailure("node node3 is lost", 1, "node3"), 75, f"{node.ASKED}; then node node3 is lost"),
        (SystemExit("killed"), None, node.ASKED),
    ],
)
def test_a_sigterm_is_the_reason_where_the_run_had_no_time_to_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, status: int | None, reason: str
) -> None:
    with contextlib.suppress(SystemExit):
        assert start(tmp_path, monkeypatch, error, with_sigterm=True) == status
    (attempt,) = Attempts(tmp_path).read()
    assert (attempt.status, attempt.reason) == (status, reason)
    assert not (tmp_path / "slurm" / "exclude").exists(), "no node is to blame"


def test_an_error_of_ours_has_a_status_that_srun_reports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert start(tmp_path, monkeypatch, AceReasonError("unforeseen")) == 75
