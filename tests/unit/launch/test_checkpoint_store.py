"""Checkpoints on disk: whole or not there, kept by the rule, and what tells a finished run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from nemo_acereason.config.schema import CheckpointConfig, GrpoStage, Plan, SftStage
from nemo_acereason.errors import CheckpointError
from nemo_acereason.launch.resume import CheckpointStore, has_finished, read_state, whole_checkpoints


class Trainer:
    """Saves a file; ``dies`` is what stops it half-way."""

    def __init__(self, step_count: int, dies: BaseException | None = None) -> None:
        self.step_count = step_count
        self._dies = dies

    def save(self, directory: Path) -> None:
        (directory / "weights").write_text(str(self.step_count))
        if self._dies:
            raise self._dies


def save(store: CheckpointStore, step: int, *, is_stage_end: bool = False, stage: str = "math", **trainer: Any) -> None:
    state = {"stage": stage, "stage_step": step, "is_stage_end": is_stage_end, "data": {"position": 10 * step}}
    store.save(Trainer(step, **trainer), state)  # type: ignore[arg-type]


def steps(run_dir: Path) -> list[int]:
    return [read_state(path)["step"] for path in whole_checkpoints(run_dir / "checkpoints")]


def test_newest_checkpoint_is_found_with_its_state(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, CheckpointConfig())
    assert store.latest() is None
    save(store, 9)
    save(store, 10)
    directory, state = store.latest() or (Path(), {})
    assert directory == tmp_path / "checkpoints" / "step_000010"
    assert (directory / "model" / "weights").read_text() == "10"
    assert state == {"stage": "math", "stage_step": 10, "is_stage_end": False, "data": {"position": 100}, "step": 10}


def test_a_checkpoint_cut_short_is_passed_over_and_written_anew(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, CheckpointConfig())
    save(store, 1)
    with pytest.raises(KeyboardInterrupt):
        save(store, 2, dies=KeyboardInterrupt())
    assert steps(tmp_path) == [1]
    (tmp_path / "checkpoints" / "step_000002.partial" / "model" / "left_over").touch()
    save(store, 2)
    assert steps(tmp_path) == [1, 2]
    assert [path.name for path in (tmp_path / "checkpoints" / "step_000002" / "model").iterdir()] == ["weights"]


def test_old_checkpoints_go_but_those_of_stage_ends_stay(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, CheckpointConfig(keep_last=2))
    save(store, 1)
    save(store, 2, is_stage_end=True)
    for step in (3, 4, 5):
        save(store, step)
    assert steps(tmp_path) == [2, 4, 5]


def test_a_kill_while_an_old_checkpoint_is_removed_leaves_no_torn_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = CheckpointStore(tmp_path, CheckpointConfig(keep_last=1))
    save(store, 1)

    def killed_half_way(directory: Path) -> None:
        (directory / "state.json").unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as during_kill:
        during_kill.setattr("shutil.rmtree", killed_half_way)
        with pytest.raises(KeyboardInterrupt):
            save(store, 2)
    assert steps(tmp_path) == [2]
    save(store, 3)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step_000003"]


def test_the_same_step_again_takes_the_place_of_the_first(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, CheckpointConfig())
    save(store, 1, stage="cold", is_stage_end=True)
    save(store, 1, stage="math", is_stage_end=True)
    assert read_state(tmp_path / "checkpoints" / "step_000001")["stage"] == "math"
    assert len(list((tmp_path / "checkpoints").iterdir())) == 1


def test_a_disk_that_refuses_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("a file where a directory should be")
    with pytest.raises(CheckpointError, match=r"cannot be written .*; free space and start again"):
        save(CheckpointStore(tmp_path, CheckpointConfig()), 1)


def test_what_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no readable state\.json; want RUN/checkpoints/step_N of a run"):
        read_state(tmp_path)
    (tmp_path / "state.json").write_text('{"torn')
    with pytest.raises(CheckpointError, match=r"no readable state\.json"):
        read_state(tmp_path)


def test_a_run_has_finished_when_the_end_of_its_last_stage_is_saved(tmp_path: Path) -> None:
    plan = Plan(stages={"cold": SftStage(), "math": GrpoStage()})
    store = CheckpointStore(tmp_path, CheckpointConfig())
    assert not has_finished(plan, tmp_path)
    save(store, 1, stage="cold", is_stage_end=True)
    assert not has_finished(plan, tmp_path)
    save(store, 2, stage="math")
    assert not has_finished(plan, tmp_path)
    save(store, 3, stage="math", is_stage_end=True)
    assert has_finished(plan, tmp_path)
