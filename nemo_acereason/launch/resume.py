"""A run's checkpoints: written beside, seen by a rename, kept by a rule.

``RUN/checkpoints/step_000120/`` holds ``model/`` (Megatron's sharded format: weights and optimizer) and ``state.json``
(stage, step in it, data position). It gets its name only when all of it is on disk: a directory of that name is whole.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nemo_acereason.config.schema import CheckpointConfig, Plan
from nemo_acereason.errors import CheckpointError
from nemo_acereason.parallel.collectives import barrier, on_leader
from nemo_acereason.protocols import PolicyTrainer

_NAME = re.compile(r"step_(\d{6,})")


class CheckpointStore:
    """Saves and finds the checkpoints of one run; every rank holds one, rank 0 does what is not the trainer's."""

    def __init__(self, run_dir: Path, config: CheckpointConfig) -> None:
        self._directory = run_dir / "checkpoints"
        self._config = config

    def save(self, trainer: PolicyTrainer, state: Mapping[str, Any]) -> None:
        """Write one checkpoint, on every rank together, then drop those that the rule does not keep.

        Raises:
            CheckpointError: the disk refused; what was there before still stands.
        """
        name = f"step_{trainer.step_count:06d}"
        partial, final = self._directory / f"{name}.partial", self._directory / name

        def begin() -> None:
            try:
                if partial.exists():
                    shutil.rmtree(partial)
                (partial / "model").mkdir(parents=True)
            except OSError as error:
                raise CheckpointError(
                    f"{partial}: cannot be written ({error.strerror}); free space and start again"
                ) from None

        on_leader(begin)
        trainer.save(partial / "model")
        barrier()

        def finish() -> None:
            try:
                state_file = partial / "state.json"
                state_file.write_text(json.dumps({**state, "step": trainer.step_count}))
                for file in partial.rglob("*"):
                    if file.is_file():
                        _sync(file)
                _sync(partial)
                if final.exists():  # the same step again: a stage that ends on the step its last checkpoint was of
                    _remove(final)
                partial.rename(final)
                _sync(self._directory)
            except OSError as error:
                raise CheckpointError(
                    f"{partial}: cannot be written ({error.strerror}); free space and start again"
                ) from None
            self._drop_old()

        on_leader(finish)

    def latest(self) -> tuple[Path, dict[str, Any]] | None:
        """Directory and state of the newest checkpoint; None before the first."""
        found = whole_checkpoints(self._directory)
        return (found[-1], read_state(found[-1])) if found else None

    def _drop_old(self) -> None:
        for left_over in self._directory.glob("*.removed"):
            shutil.rmtree(left_over)
        for directory in whole_checkpoints(self._directory)[: -self._config.keep_last]:
            if not read_state(directory)["is_stage_end"]:
                _remove(directory)


def whole_checkpoints(directory: Path) -> list[Path]:
    """Every complete checkpoint of a ``checkpoints/`` directory, oldest first."""
    named = [(int(match[1]), path) for path in directory.glob("step_*") if (match := _NAME.fullmatch(path.name))]
    return [path for _, path in sorted(named)]


def has_finished(plan: Plan, run_dir: Path) -> bool:
    """Whether the run's last checkpoint is that of its last stage's end: the last thing a run writes.

    What the log says is not enough: a kill between the last ``stage_end`` and its checkpoint leaves that undone.
    """
    found = whole_checkpoints(run_dir / "checkpoints")
    if not found:
        return False
    state = read_state(found[-1])
    return bool(state["is_stage_end"]) and state["stage"] == list(plan.stages)[-1]


def read_state(checkpoint: Path) -> dict[str, Any]:
    """``state.json`` of one checkpoint.

    Raises:
        CheckpointError: not a checkpoint of ours.
    """
    try:
        state = json.loads((checkpoint / "state.json").read_text())
    except (OSError, json.JSONDecodeError):
        raise CheckpointError(f"{checkpoint}: no readable state.json; want RUN/checkpoints/step_N of a run") from None
    assert isinstance(state, dict)
    return state


def _remove(checkpoint: Path) -> None:
    """The name goes first: what still has it is whole, also when a kill cuts the removal short."""
    shutil.rmtree(checkpoint.rename(checkpoint.with_name(f"{checkpoint.name}.removed")))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
