"""Judging: what output is right, which test runs when, and what a verdict comes from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemo_acereason.records import RunLimits, RunResult, Verdict
from nemo_acereason.rewards.code_formats import CallCase, CodeTests, StdinCase
from nemo_acereason.rewards.code_tests import TestOrder, judge, right_value, same_output

LIMITS = RunLimits(time_limit_s=1.0)


# The protocol names these arguments; the fakes have no use for them.
# ruff: noqa: ARG001, ARG002


class FakeExecutor:
    """Answers from a function of the input, and writes down what was asked of it."""

    def __init__(self, answer: Callable[[Any, RunLimits], RunResult]) -> None:
        self.answer, self.asked = answer, []

    def run(self, code: str, stdin: str, limits: RunLimits) -> RunResult:
        self.asked.append((stdin, limits.time_limit_s))
        return self.answer(stdin, limits)

    def load(self, code: str, limits: RunLimits, setup: str = "") -> FakeProgram:
        return FakeProgram(self, limits)

    def run_script(self, script: str, code: str, limits: RunLimits, **_: Any) -> RunResult:
        self.asked.append((script, limits.time_limit_s))
        return self.answer(script, limits)


class FakeProgram:
    def __init__(self, executor: FakeExecutor, limits: RunLimits) -> None:
        self.executor, self.limits = executor, limits

    def __enter__(self) -> FakeProgram:
        return self

    def __exit__(self, *exc: object) -> None:
        pass

    def call(self, function: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> RunResult:
        self.executor.asked.append((args[0], self.limits.time_limit_s))
        return self.executor.answer(args[0], self.limits)


def _echo(given: Any, limits: RunLimits) -> RunResult:
    return RunResult(output=given, value=given, cpu_s=0.25)


def _stdin(*cases: tuple[str, str]) -> CodeTests:
    return CodeTests(stdin=tuple(StdinCase(*case) for case in cases))


@pytest.mark.parametrize(
    ("got", "wanted", "is_same"),
    [
        ("4\n", "4", True),
        ("  4  \n\n", "4", True),
        ("4\r\n5\r\n", "4\n5", True),
        ("1 2\n", "1  2", True),
        ("a b\n", "a  b", False),
        ("1\n2", "1 2", False),
        ("1\n\n2", "1\n2", False),
        ("3.0", "3", True),
        ("3", "3.000", True),
        ("0.3000000001", "0.3", True),
        ("0.31", "0.3", False),
        ("1e3", "1000", True),
        ("1000000008", "1000000007", False),
        ("100000001", "100000001.0", True),
        ("YES", "Yes", False),
        ("", "", True),
        ("", "1", False),
        ("nan", "nan", True),
        ("NaN", "nan", False),
        ("inf", "Infinity", True),
        ("1e999999999", "1.5", False),
        ("0." + "0" * 5000 + "1", "0.0", True),
        ("9" * 5000, "9" * 5000, True),
        ("9" * 5000, "9" * 4999 + "8", False),
    ],
)
def test_outputs_are_compared_by_line_and_number(got: str, wanted: str, is_same: bool) -> None:
    assert same_output(got, wanted) is is_same


@given(st.lists(st.integers() | st.floats(allow_nan=False), min_size=1), st.sampled_from(["", " ", "\t"]))
def test_an_output_equals_itself_whatever_the_space_around(numbers: list[float], space: str) -> None:
    text = " ".join(map(str, numbers))
    assert same_output(f"{space}{text}{space}\n{space}\n", text)


@given(st.integers(), st.integers())
def test_whole_numbers_are_exact(left: int, right: int) -> None:
    assert same_output(str(left), str(right)) is (left == right)


@given(st.text(), st.text())
def test_any_text_can_be_compared(got: str, wanted: str) -> None:
    assert isinstance(same_output(got, wanted), bool)


def test_all_tests_pass() -> None:
    executor = FakeExecutor(_echo)
    score = judge("code", _stdin(("1", "1"), ("2", "2")), executor, LIMITS)
    assert (score.verdict, score.reward, score.seconds) == (Verdict.CORRECT, 1.0, 0.5)
    assert [asked for asked, _ in executor.asked] == ["1", "2"]


def test_judging_stops_at_the_first_failure_and_names_it() -> None:
    executor = FakeExecutor(_echo)
    score = judge("code", _stdin(("1", "1"), ("2", "no"), ("3", "3")), executor, LIMITS)
    assert (score.verdict, score.reward) == (Verdict.WRONG, 0.0)
    assert "test 2 of 3: got '2'" in score.detail
    assert len(executor.asked) == 2


@pytest.mark.parametrize("verdict", [Verdict.TIMEOUT, Verdict.MEMORY, Verdict.CRASH, Verdict.FORBIDDEN])
def test_a_failed_run_gives_its_verdict(verdict: Verdict) -> None:
    score = judge("code", _stdin(("1", "1")), FakeExecutor(lambda *_: RunResult(verdict, detail="why")), LIMITS)
    assert (score.verdict, score.reward) == (verdict, 0.0)
    assert score.detail.endswith("why")


def test_tests_that_failed_most_programs_run_first() -> None:
    tests, order = _stdin(("1", "1"), ("2", "2"), ("3", "x")), TestOrder()
    judge("first", tests, FakeExecutor(_echo), LIMITS, order)
    executor = FakeExecutor(_echo)
    judge("second", tests, executor, LIMITS, order)
    assert [asked for asked, _ in executor.asked] == ["3"]


def test_identical_programs_are_judged_once() -> None:
    tests, order, executor = _stdin(("1", "1")), TestOrder(), FakeExecutor(_echo)
    scores = [judge("code", tests, executor, LIMITS, order) for _ in range(3)]
    assert len(executor.asked) == 1
    assert [score.verdict for score in scores] == [Verdict.CORRECT] * 3
    assert [score.seconds for score in scores] == [0.25, 0.0, 0.0]
    judge("code", tests, executor, RunLimits(time_limit_s=2.0), order)
    assert len(executor.asked) == 2, "other limits, another judgement"


def test_infrastructure_failures_are_not_remembered() -> None:
    tests, order = _stdin(("1", "1")), TestOrder()
    failing = FakeExecutor(lambda *_: RunResult(Verdict.INFRASTRUCTURE))
    assert judge("code", tests, failing, LIMITS, order).verdict is Verdict.INFRASTRUCTURE
    assert judge("code", tests, FakeExecutor(_echo), LIMITS, order).verdict is Verdict.CORRECT


def test_a_program_just_over_its_limit_is_run_once_more_and_that_counts() -> None:
    times = iter([1.1, 0.9, 1.1])

    def slow(given: str, limits: RunLimits) -> RunResult:
        cpu_s = next(times)
        return RunResult(Verdict.TIMEOUT) if cpu_s > limits.time_limit_s else RunResult(output=given, cpu_s=cpu_s)

    executor = FakeExecutor(slow)
    assert judge("lucky", _stdin(("1", "1")), executor, LIMITS).verdict is Verdict.CORRECT
    assert executor.asked == [("1", 1.25), ("1", 1.0)]

    times = iter([1.1, 1.1])
    assert judge("slow", _stdin(("1", "1")), FakeExecutor(slow), LIMITS).verdict is Verdict.TIMEOUT


def test_calls_are_judged_on_values() -> None:
    tests = CodeTests(calls=(CallCase("f", ([1, 2],), {}, ([1, 2],)), CallCase("f", (3,), {}, (4,))))
    score = judge("code", tests, FakeExecutor(_echo), LIMITS)
    assert score.verdict is Verdict.WRONG
    assert "test 2 of 2: got '3'" in score.detail


@pytest.mark.parametrize(
    ("compare", "value", "is_right"),
    [
        ("true", [0], True),
        ("true", [], False),
        ("true", {"s": []}, False),
        ("true", {"d": []}, False),
        ("false", 0, True),
        ("false", {"ln": [1]}, False),
        ("same", 2.0000001, False),
        ("close", 2.0000001, True),
    ],
)
def test_ways_to_compare(compare: str, value: Any, is_right: bool) -> None:
    assert right_value(CallCase("f", (), {}, (2,), compare), value) is is_right


def test_any_of_the_wanted_values_will_do() -> None:
    case = CallCase("f", (), {}, ([5], 5))
    assert right_value(case, 5)
    assert right_value(case, [5])
    assert not right_value(case, [[5]])
