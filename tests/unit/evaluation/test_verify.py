"""Judging a file: order, bad rows, labels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nemo_acereason.errors import DataError
from nemo_acereason.evaluation.verify import VerifySummary, verify_file


def verify(tmp_path: Path, kind: str, lines: list[Any], **options: Any) -> tuple[VerifySummary, list[dict[str, Any]]]:
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))
    summary = verify_file(kind, source, target, **options)
    return summary, [json.loads(line) for line in target.read_text().splitlines()]


def test_math_rows_come_out_in_order_and_bad_ones_are_named_by_line(tmp_path: Path) -> None:
    lines = [
        {"id": "a", "response": "\\boxed{1}", "answer": "1"},
        "{not json",
        {"id": "c", "response": "\\boxed{2}", "answer": "1"},
        "",
        {"id": "e", "answer": "1"},
        {"id": "f", "response": "\\boxed{1}"},
        {"id": "g", "response": "\\boxed{1}", "answer": "1", "requires_think": True},
        {"id": "h", "response": "\\boxed{3}", "answer": 3},
        {"id": "i", "response": "\\boxed{3}", "answer": "3", "requires_think": "yes"},
        "[1, 2]",
    ]
    summary, rows = verify(tmp_path, "math", lines)
    assert [row["id"] for row in rows] == ["a", None, "c", "e", "f", "g", "h", "i", None]
    assert [row["verdict"] for row in rows] == [
        *("correct", "infrastructure", "wrong", "infrastructure", "infrastructure"),
        *("unfinished", "correct", "infrastructure", "infrastructure"),
    ]
    assert [row["reward"] for row in rows] == [1.0, None, 0.0, None, None, 0.0, 1.0, None, None]
    assert set(rows[0]) == {"id", "verdict", "reward", "seconds", "detail"}
    assert [line for line, _ in summary.bad_rows] == [2, 5, 6, 9, 10]
    assert rows[3]["detail"] == "line 5: no text in response"


def test_rows_with_the_same_id_are_each_judged(tmp_path: Path) -> None:
    rows = [{"id": 1, "response": "\\boxed{1}", "answer": answer} for answer in ("1", "2", "1")]
    _, judged = verify(tmp_path, "math", rows)
    assert [row["reward"] for row in judged] == [1.0, 0.0, 1.0]


def test_labels_make_error_rates(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels = [("1", True), ("2", True), ("1", False), ("2", False), ("3", False), ("4", False)]
    lines = [
        {"id": f"r{i}", "response": f"\\boxed{{{a}}}", "answer": "1", "label": ok} for i, (a, ok) in enumerate(labels)
    ]
    summary, _ = verify(tmp_path, "math", lines, report=True)
    assert (summary.false_accepts, summary.num_wrong) == (["r2"], 4)
    assert (summary.false_rejects, summary.num_right) == (["r1"], 2)
    printed = capsys.readouterr().out
    assert "false accepts: 1 of 4 (25.00 %): r2" in printed
    assert "false rejects: 1 of 2 (50.00 %): r1" in printed


def test_code_rows_may_hold_a_program_or_a_response(tmp_path: Path) -> None:
    tests = {"kind": "stdin", "cases": [{"input": "1", "output": "2"}]}
    lines = [
        {"id": 1, "code": "print(int(input()) + 1)", "tests": tests},
        {"id": 2, "response": "so\n```python\nprint(3)\n```", "tests": tests},
        {"id": 3, "response": "no program", "tests": tests},
        {"id": 4, "code": "print(2)"},
    ]
    _, rows = verify(tmp_path, "code", lines, num_workers=1)
    assert [row["verdict"] for row in rows] == ["correct", "wrong", "no_answer", "infrastructure"]


def test_what_cannot_be_opened_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"missing\.jsonl"):
        verify_file("math", tmp_path / "missing.jsonl", tmp_path / "out.jsonl")
    with pytest.raises(DataError, match="want math or code"):
        verify_file("poetry", tmp_path / "in.jsonl", tmp_path / "out.jsonl")


def test_output_may_take_the_place_of_the_input_once_it_is_whole(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"id": 1, "response": "\\\\boxed{3}", "answer": "3"}\n')
    verify_file("math", file, file, num_workers=1)
    assert json.loads(file.read_text())["verdict"] == "correct"
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]
