"""Finished runs that several tests look at."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.commands import SCRIPTED, SMALL, run


@pytest.fixture(scope="session")
def scripted_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SFT and two GRPO stages on the real trainer at TP 2, never stopped; the engine answers from a script."""
    run_dir = tmp_path_factory.mktemp("scripted") / "run"
    ended = run("run", SMALL, "--out", run_dir, *SCRIPTED)
    assert ended.status == 0, ended.stderr
    return run_dir
