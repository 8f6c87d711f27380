import math
from pathlib import Path

import pytest

from nemo_acereason.errors import DataError
from nemo_acereason.observe.jsonl import append_lines, drop_after, read_lines

LINE_SEPARATOR = chr(0x2028)  # str.splitlines cuts here, JSON Lines does not
LONE_SURROGATE = chr(0xD800)


def test_rows_come_back_in_order(tmp_path: Path) -> None:
    path = tmp_path / "new" / "rows.jsonl"
    rows = [
        {"step": 1, "text": f"a\nb{LINE_SEPARATOR}c"},
        {"step": 2, "text": "é <script>"},
        {"step": 3, "list": [1, None]},
    ]
    append_lines(path, rows[:1])
    append_lines(path, rows[1:])
    assert read_lines(path) == rows


def test_missing_file_has_no_rows(tmp_path: Path) -> None:
    assert read_lines(tmp_path / "none.jsonl") == []
    assert drop_after(tmp_path / "none.jsonl", 3) == 0


def test_numbers_json_lacks_become_null(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    append_lines(path, [{"a": math.nan, "b": [math.inf, 1.5], "c": {"d": -math.inf}}])
    assert path.read_text() == '{"a": null, "b": [null, 1.5], "c": {"d": null}}\n'


def test_lone_surrogate_of_a_model_does_not_end_the_run(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    append_lines(path, [{"text": f"a{LONE_SURROGATE}b"}])
    assert read_lines(path) == [{"text": "a?b"}]


@pytest.mark.parametrize("torn", ['{"step": 3, "lo', '{"step": 3}', "x" * 200_000], ids=["half", "no newline", "long"])
def test_torn_last_line_is_passed_over_and_then_replaced(tmp_path: Path, torn: str) -> None:
    path = tmp_path / "rows.jsonl"
    append_lines(path, [{"step": 1}, {"step": 2}])
    with path.open("a") as file:
        file.write(torn)
    assert [row["step"] for row in read_lines(path)] == [1, 2]
    append_lines(path, [{"step": 3}])
    assert [row["step"] for row in read_lines(path)] == [1, 2, 3]


def test_torn_first_line_leaves_an_empty_file(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"ste')
    append_lines(path, [{"step": 1}])
    assert path.read_text() == '{"step": 1}\n'


@pytest.mark.parametrize("line", ["not json", "[1, 2]"])
def test_broken_line_inside_is_an_error_with_its_place(tmp_path: Path, line: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(f'{{"step": 1}}\n{line}\n{{"step": 2}}\n')
    with pytest.raises(DataError, match=r"rows\.jsonl:2 .*remove the line"):
        read_lines(path)


def test_drop_after_keeps_the_step_itself(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    append_lines(path, [{"step": step} for step in (1, 2, 2, 3, 4)])
    with path.open("a") as file:
        file.write('{"step": 5')
    assert drop_after(path, 2) == 2
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n{"step": 2}\n'
    assert list(tmp_path.iterdir()) == [path]


def test_drop_after_can_empty_a_file(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    append_lines(path, [{"step": 1}])
    assert drop_after(path, 0) == 1
    assert read_lines(path) == []
