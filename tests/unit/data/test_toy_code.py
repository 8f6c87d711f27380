"""Generated programs: their tests are right, haste shows in the response alone."""

from __future__ import annotations

import contextlib
import io
from typing import Any
from unittest import mock

import pytest

from nemo_acereason.data.toy_code import programs, worked_programs, worked_sums_and_programs
from nemo_acereason.errors import DataError


def run(program: str, stdin: str) -> str:
    out = io.StringIO()
    with mock.patch("builtins.input", return_value=stdin.strip()), contextlib.redirect_stdout(out):
        exec(program, {})
    return out.getvalue()


def passes(row: dict[str, Any]) -> bool:
    program = row["response"].split("```python\n")[1].split("```")[0]
    return all(run(program, case["input"]) == case["output"] for case in row["tests"]["cases"])


def test_worked_programs_pass_their_own_tests() -> None:
    rows = list(worked_programs(count=200))
    assert len({row["problem"] for row in rows}) == 200
    assert all(passes(row) for row in rows)


def test_haste_leaves_terms_out_and_the_tests_see_it() -> None:
    rows = list(worked_programs(count=400, min_terms=3, max_terms=3, haste_rate=0.4))
    whole = [row["problem"].split("print ")[1] in row["response"] for row in rows]
    assert 0.5 < sum(whole) / len(rows) < 0.7
    assert [passes(row) for row in rows] == whole


def test_train_and_heldout_problems_never_meet() -> None:
    train = {row["problem"] for row in programs(count=500)}
    assert train.isdisjoint(row["problem"] for row in programs(count=60, split="heldout"))


def test_sums_and_programs_come_in_turn_with_the_columns_of_a_cold_start() -> None:
    rows = list(worked_sums_and_programs(sums={"count": 3}, programs={"count": 2}))
    assert [row["problem"].startswith("read") for row in rows] == [False, True, False, True, False]
    assert all(set(row) == {"id", "problem", "response"} for row in rows)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"split": "test"}, "split='test'"), ({"min_terms": 1}, "min_terms=1"), ({"min_terms": 5}, "max_terms=4")],
)
def test_impossible_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        list(programs(count=1, **options))
