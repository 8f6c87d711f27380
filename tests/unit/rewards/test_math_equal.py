"""Comparison of answers: labelled files, rewrites of real gold answers, limits, and fuzz."""

from __future__ import annotations

import builtins
import json
import random
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from math_rewrites import rewrites

from nemo_acereason.rewards.math import judge_math
from nemo_acereason.rewards.math_answer import last_boxed
from nemo_acereason.rewards.math_equal import Comparison, compare, is_equal
from nemo_acereason.rewards.math_parse import parse
from nemo_acereason.rewards.math_tree import TooComplex, Unreadable

DATA = Path(__file__).resolve().parents[2] / "data" / "math"


def mistakes(name: str) -> list[str]:
    rows = [json.loads(line) for line in (DATA / name).read_text().splitlines()]
    assert len(rows) >= 100
    assert {row["label"] for row in rows} == {True, False}
    return [
        f"{row['id']}: {row['response']} against {row['answer']}"
        for row in rows
        if (judge_math(row["response"], row["answer"]).reward == 1.0) is not row["label"]
    ]


@pytest.mark.parametrize("name", sorted(path.name for path in DATA.glob("labelled*.jsonl")))
def test_every_labelled_case_is_judged_as_labelled(name: str) -> None:
    assert mistakes(name) == []


def test_rewrites_of_real_gold_answers_are_judged_as_their_rule_says(shared_dir: Path) -> None:
    rows = json.loads((shared_dir / "data" / "train" / "math.json").read_text())
    golds = sorted({str(row["answer"]) for row in rows} - {""})
    golds = random.Random(3).sample(golds, 1200)
    cases = [case for gold in golds for case in rewrites(gold)]
    assert len(cases) > 8000
    assert [case for case in cases if is_equal(case.gold, case.answer) is not case.is_correct] == []


def test_every_gold_answer_of_the_data_sets_can_be_read(shared_dir: Path) -> None:
    answers = set()
    for name in ("train/math.json", "train/aime_1983_2023.json", "eval/math500.json", "eval/aime24.json"):
        answers |= {str(row["answer"]) for row in json.loads((shared_dir / "data" / name).read_text())}
    for name in ("eval/aime25.jsonl", "eval/hmmt25_feb.jsonl"):
        lines = (shared_dir / "data" / name).read_text().splitlines()
        answers |= {str(json.loads(line)["answer"]) for line in lines}
    for answer in answers - {""}:
        parse(answer)
        assert is_equal(answer, answer), answer


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("\\{1, 2, 3\\}", "\\{1, 2\\}"),
        ("x = y", "x = x"),
        ("12x - 4y = 1", "0 = 0"),
        ("(-\\infty, \\infty)", "\\emptyset"),
        ("0", "10^{-40}"),
        ("0", "e^{-1000}"),
        ("10^{-12}", "2 \\cdot 10^{-12}"),
        ("[1, 0]", "[3, 2]"),
        ("", ""),
        ("1010_2", "10"),
        ("40_9", "40\\pi"),
        ("\\text{(A)}", "\\sqrt{A}"),
        ("\\text{(A)}", "\\overline{A}"),
        ("\\sqrt{x^2}", "x"),
        ("10^{100000}", "10^{100000} + 1"),
        ("2^{1000}", "2^{1000} + 1"),
        ("\\pi", "3.141592653589793238462643383279502884197"),
    ],
)
def test_near_misses_are_different(gold: str, answer: str) -> None:
    assert compare(gold, answer) is not Comparison.SAME


@pytest.mark.parametrize(
    "answer",
    [
        "10^{10^{10}}",
        "10^{10^{10^{10^{10}}}}",
        "9" * 100_000,
        "1e999999999",
        "((((((" * 3000,
        "{" * 5000 + "}" * 5000,
        "\\frac{1}{" * 500 + "1" + "}" * 500,
        "\\sqrt{" * 400 + "2" + "}" * 400,
        "(10^{9})!",
        "\\binom{10^9}{10^8}",
        "100000000!",
        "\\sin(10^{10^{9}})",
        "e^{e^{e^{e^{e}}}}",
        "9^{9^{9}} \\cdot x",
        "x^{10^{10}}",
        "\\ln(\\ln(\\ln(10^{10^{10}})))",
        "2^{2^{2^{2^{2^{2}}}}} - 2^{2^{2^{2^{2^{2}}}}}",
        ",".join("1" * 1500),
        "-" * 3000 + "1",
        "+-" * 1500,
        "1" + "!" * 300,
        "\\pm" * 12 + "1",
        "1 \\pm 2 \\pm 3 \\pm 4 \\pm 5 \\pm 6",
        "\\begin{pmatrix}" + "1 & " * 400 + "\\end{pmatrix}",
        "x_{" * 100,
        "\\text{" * 100,
        "__import__('os').system('true')",
        "1/0",
        "\\frac{0}{0}",
        "0^{0}",
        "\\infty - \\infty",
        "\x00\x01\x02",
        "\ud800",
        "٣",
        "²",
    ],
)
def test_hostile_answers_are_not_accepted_and_not_computed(answer: str) -> None:
    """The suite's own limit on a test is what would catch one that is computed."""
    for gold in ("5", "\\frac{1}{2}", "x^2+1", "(1,2)", "\\text{odd}", answer[::-1] or "1"):
        assert compare(gold, answer) is not Comparison.SAME or gold == answer
    assert judge_math(f"\\boxed{{{answer}}}", "5").reward == 0.0


@pytest.mark.parametrize(
    "response",
    [
        "\\boxed{" * 20_000,
        "\\boxed{1}" * 20_000 + "\\boxed{2",
        "{" * 1_000_000,
        "}" * 1_000_000,
        "\\" * 1_000_000,
        "\\boxed" * 150_000,
        "\x00" * 1_000_000,
        "</think>" * 120_000,
        "\\boxed{" + "1" * 1_000_000 + "}",
        "\\boxed{" + "(" * 1_000_000 + "}",
        "\\boxed{" * 10_000 + "}" * 10_000,
        "\\boxed{" + "\\frac{1}{2}" * 90_000 + "}",
        "\\boxed{" + " " * 1_000_000 + "}",
        "\\boxed{" + "a " * 1999 + "}",
        "\\boxed{" + "1,111" * 700 + "}",
        "\\boxed{" + "0.1" * 1300 + "}",
        "\\boxed{" + "\\text{a}" * 500 + "}",
        "\\boxed{0." + "12" * 1900 + "...}",
    ],
)
def test_responses_of_a_megabyte_are_judged_and_not_accepted(response: str) -> None:
    assert judge_math(response, "5").reward == 0.0


def test_many_boxes_count_the_last() -> None:
    assert judge_math("\\boxed{4}" * 20_000 + "\\boxed{5}", "5").reward == 1.0


def test_no_text_of_a_model_is_evaluated(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError("eval was called")

    compare("1", "\\sqrt{1}")  # what is imported late is imported here
    compare("\\sum_{k=1}^3 k", "\\sum_{k=1}^{3} 2k")
    monkeypatch.setattr(builtins, "eval", forbidden)
    monkeypatch.setattr("sympy.parsing.sympy_parser.eval_expr", forbidden)
    for answer in (
        "__import__('os')",
        "x.__class__",
        "1+1",
        "\\sum_{k=1}^{3} __import__('os')",
        "\\int_0^1 x dx",
        "f(x)",
    ):
        for gold in ("2", "\\frac{1}{2}", "\\sum_{k=1}^{3} k", "x"):
            compare(gold, answer)


_SNIPPETS = r"""
\frac{ \frac \sqrt{ \sqrt[ { } ( ) [ ] \{ \} | ^ _ ^{ _{ + - \pm \mp * / \cdot \times = < > \le \ne \in , ; : ! ' % \%
\$ $ ^\circ \circ \text{ } \text{and} or and \cup \cap \setminus \infty \pi e i x y n 0 1 2 12 3.5 .5 1,000 1e5
\begin{pmatrix} \end{pmatrix} & \\ \left( \right) \sin \log_ \ln \binom{ \overline{ \mathbb{R} \emptyset cm \mathrm{
\sum_{ \int \boxed{ \ldots ... \dot 0. \approx \Rightarrow \lfloor \rfloor \angle T \pmod \langle \rangle \to
"""
_PIECES = st.sampled_from(_SNIPPETS.split())
_ANSWERS = (
    st.lists(_PIECES, max_size=14).map(" ".join) | st.lists(_PIECES, max_size=10).map("".join) | st.text(max_size=40)
)


@settings(max_examples=400, deadline=None)
@given(gold=_ANSWERS, answer=_ANSWERS)
@example(gold="5", answer="\\begin{pmatrix}")
def test_comparing_never_raises(gold: str, answer: str) -> None:
    assert compare(gold, answer) in Comparison


@settings(max_examples=300, deadline=None)
@given(_ANSWERS)
def test_what_can_be_read_equals_itself_spaced_otherwise(text: str) -> None:
    try:
        parse(text)
    except (Unreadable, TooComplex):
        return
    assert compare(text, f" {text} ") is Comparison.SAME


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="\\boxed{}12 </think>", max_size=200))
def test_extraction_never_raises_and_finds_only_what_is_there(text: str) -> None:
    answer = last_boxed(text)
    assert answer is None or f"{{{answer}}}" in text


@settings(max_examples=200, deadline=None)
@given(st.fractions(max_denominator=500), st.fractions(max_denominator=500))
def test_fractions_are_equal_exactly_when_their_values_are(first: object, second: object) -> None:
    one, other = (f"\\frac{{{value.numerator}}}{{{value.denominator}}}" for value in (first, second))  # type: ignore[attr-defined]
    assert is_equal(one, other) is (first == second)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(-9, 9), min_size=2, max_size=5), st.randoms())
def test_polynomials_are_equal_in_any_order_and_not_after_a_change(
    coefficients: list[int], chance: random.Random
) -> None:
    terms = [f"({value})x^{{{power}}}" for power, value in enumerate(coefficients)]
    shuffled = chance.sample(terms, len(terms))
    assert is_equal(" + ".join(terms), " + ".join(shuffled))
    assert not is_equal(" + ".join(terms), " + ".join([*shuffled, "x"]))
