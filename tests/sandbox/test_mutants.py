"""On real problems: reference solutions pass, and wrong programs made from them do not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from nemo_acereason.rewards.code_formats import read_tests
from nemo_acereason.sandbox.executor import SandboxExecutor
from tests.sandbox.mutants import judge_set


@pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed")
def test_leetcode_solutions_pass_and_their_mutants_do_not(shared_dir: Path) -> None:
    """A sample; `python -m tests.sandbox.mutants` judges the whole set."""
    rows = json.loads((shared_dir / "data/train/leetcode.json").read_text())[3::45]
    executor = SandboxExecutor("kernel")
    result = judge_set(rows, 1, executor)
    executor.close()
    assert result["errors"] == []
    assert result["solutions"] == {"correct": len(rows)}
    assert sum(result["mutants"].values()) >= 0.8 * len(rows)


@pytest.mark.parametrize("name", ["train/livecodebench_580_public_tests", "eval/livecodebench_v5_279_public_tests"])
def test_every_livecodebench_row_is_read(shared_dir: Path, name: str) -> None:
    rows = json.loads((shared_dir / f"data/{name}.json").read_text())
    tests = [read_tests(row["tests"], problem=row["problem"], starter_code=row["starter_code"]) for row in rows]
    assert sum(len(one) for one in tests) == sum(len(row["tests"]) for row in rows)
    assert all(call.function.startswith("Solution.") for one in tests for call in one.calls)


def test_every_leetcode_script_becomes_calls(shared_dir: Path) -> None:
    """So that every comparison is made outside the program's reach."""
    rows = json.loads((shared_dir / "data/train/leetcode.json").read_text())
    assert all(read_tests(row["tests"]).calls for row in rows)
