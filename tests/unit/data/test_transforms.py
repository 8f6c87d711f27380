"""Row transforms for published sets."""

from __future__ import annotations

import pytest

from nemo_acereason.data.transforms import gsm8k


@pytest.mark.parametrize(
    "row",
    [
        {"problem": "How many?", "solution": "2 * 500 = 1000\n#### 1,000", "answer": None},
        {"question": "How many?", "answer": "2 * 500 = 1000\n#### 1,000"},
    ],
)
def test_gsm8k_answer_is_the_number_after_the_mark(row: dict[str, str]) -> None:
    made = gsm8k(row)
    assert (made["problem"], made["solution"], made["answer"]) == ("How many?", "2 * 500 = 1000", "1000")


def test_gsm8k_row_without_the_mark_is_refused() -> None:
    with pytest.raises(ValueError, match="no '####'"):
        gsm8k({"problem": "How many?", "solution": "many", "answer": None})
