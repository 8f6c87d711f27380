"""Which part of a response is the program."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemo_acereason.records import Verdict
from nemo_acereason.rewards.code_program import find_program


def _found(text: str, requires_think: bool = True) -> str | Verdict:
    return find_program(text, requires_think=requires_think)


def test_last_python_fence_after_the_thought_is_the_program() -> None:
    text = "```python\nno\n```</think>First\n```python\none\n```\nthen\n```python\ntwo\n```\ndone"
    assert _found(text) == "two\n"


def test_a_fence_inside_the_thought_is_no_answer() -> None:
    assert _found("<think>```python\nx\n```</think> I am done.") is Verdict.NO_ANSWER


def test_a_response_that_never_ends_its_thought_is_unfinished() -> None:
    assert _found("<think>```python\nx\n```") is Verdict.UNFINISHED
    assert _found("```python\nx\n```", requires_think=False) == "x\n"


def test_only_what_follows_the_last_end_of_thought_counts() -> None:
    assert _found("</think>```python\na\n```</think>none") is Verdict.NO_ANSWER


@pytest.mark.parametrize("tag", ["python", "python3", "py", "Python", "PYTHON", " python"])
def test_python_is_known_by_its_names(tag: str) -> None:
    assert _found(f"</think>\n```{tag}\nx = 1\n```") == "x = 1\n"


@pytest.mark.parametrize("tag", ["", "cpp", "text", "java", "output"])
def test_other_fences_are_not_programs(tag: str) -> None:
    assert _found(f"</think>\n```{tag}\nx = 1\n```") is Verdict.NO_ANSWER
    assert _found(f"</think>\n```python\nx = 1\n```\nprints\n```{tag}\n7\n```") == "x = 1\n"


def test_an_unclosed_fence_is_not_a_program() -> None:
    assert _found("</think>\n```python\nx = 1\n") is Verdict.NO_ANSWER
    assert _found("</think>\n```python\nx = 1\n```\n```python\ny = ") == "x = 1\n"
    assert _found("</think>\n```python\nbroken off\n```python\nx = 1\n```") == "x = 1\n"


def test_an_empty_fence_is_no_answer() -> None:
    assert _found("</think>```python\n\n```") is Verdict.NO_ANSWER


def test_longer_fences_hold_shorter_ones() -> None:
    assert _found('</think>\n````python\ns = """\n```\n"""\n````') == 's = """\n```\n"""\n'


def test_indented_and_windows_fences_are_read() -> None:
    assert _found("</think>\n1. so:\n   ```python\n   x = 1\n   ```") == "   x = 1\n"
    assert _found("</think>\r\n```python\r\nx = 1\r\n```\r\n") == "x = 1\r\n"


@given(st.text(alphabet="`~ \npython</think>x", max_size=200))
def test_any_text_has_an_answer(text: str) -> None:
    found = _found(text)
    assert isinstance(found, Verdict) or found in text


def test_megabytes_of_fences_are_read() -> None:
    """Anything worse than linear would take hours here."""
    text = "</think>" + "```python\n" * 100_000 + "`" * 1_000_000 + " " * 1_000_000 + "\n```python\nx\n```"
    assert _found(text) == "x\n"
