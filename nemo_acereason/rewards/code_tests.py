"""Judges programs by their tests: what is run, in which order, and whether what came back is right.

Pure but for the :class:`~nemo_acereason.protocols.CodeExecutor` it is given: expected outputs stay in this process,
programs never enter it. A program is correct when every test passes; judging stops at the first that does not.
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from dataclasses import replace
from decimal import Decimal, InvalidOperation
from typing import Any

from nemo_acereason.protocols import CodeExecutor
from nemo_acereason.records import RunLimits, RunResult, Score, Verdict, to_json
from nemo_acereason.rewards import code_values
from nemo_acereason.rewards.code_formats import AssertScript, CallCase, CodeTests

NEAR_LIMIT = 1.25
"""A test may run this far beyond its time limit: one that ends in between is slow by luck or by nature, and is run
once more, alone, under the limit itself. Contention of two processes on one core's caches costs less than a fourth."""
_RELATIVE, _ABSOLUTE = Decimal("1e-5"), Decimal("1e-8")
_MAX_REMEMBERED = 4096


def same_output(got: str, wanted: str) -> bool:
    """Whether a program printed what it should have.

    Line by line after stripping: equal, or equal token by token as numbers. A number written with a point or an
    exponent may differ as numpy's ``allclose`` lets it (1e-8 + 1e-5 of the wanted one); a whole number may not.

    Source: LiveCodeBench's runner, with the float tolerance of its descendants (reference section 2.4), which apply it
    to whole numbers too and so take 1000000007 for 1000000008.
    """
    got_lines, wanted_lines = _stripped_lines(got), _stripped_lines(wanted)
    return len(got_lines) == len(wanted_lines) and all(map(_same_line, got_lines, wanted_lines))


def _stripped_lines(text: str) -> list[str]:
    return [line.strip() for line in text.strip().split("\n")]


def _same_line(got: str, wanted: str) -> bool:
    if got == wanted:
        return True
    got_tokens, wanted_tokens = got.split(), wanted.split()
    return len(got_tokens) == len(wanted_tokens) and all(map(_same_number, got_tokens, wanted_tokens))


def _same_number(got: str, wanted: str) -> bool:
    try:
        left, right = Decimal(got), Decimal(wanted)
    except InvalidOperation:
        return False
    if not (left.is_finite() and right.is_finite()):
        return not left.is_nan() and not right.is_nan() and left == right
    if left == right:
        return True
    if wanted.lstrip("+-").isdigit() or max(left.adjusted(), right.adjusted()) > 400:
        return False
    return abs(left - right) <= _ABSOLUTE + _RELATIVE * abs(right)


def right_value(case: CallCase, value: Any) -> bool:
    """Whether a returned value (tagged JSON) is what ``case`` wants."""
    if case.compare in ("true", "false"):
        return bool(code_values.decode(value)) is (case.compare == "true")
    compare = _COMPARISONS[case.compare]
    try:
        return any(compare(value, wanted) for wanted in case.wanted)
    except (RecursionError, OverflowError):
        return False


_COMPARISONS = {
    "close": code_values.close,
    "same": code_values.same,
    "any_order": code_values.close_in_any_order,
}


class TestOrder:
    """Remembers which tests of a problem fail programs, so that those run first; and verdicts on seen programs."""

    __test__ = False  # the name is not pytest's

    def __init__(self) -> None:
        self._kills: OrderedDict[str, list[int]] = OrderedDict()
        self._scores: OrderedDict[str, Score] = OrderedDict()

    def order(self, key: str, count: int) -> list[int]:
        """Indices of a problem's tests, those that failed most programs first, else as they come."""
        kills = self._kills.setdefault(key, [0] * count)
        _touch(self._kills, key)
        return sorted(range(count), key=lambda index: -kills[index])

    def failed(self, key: str, index: int) -> None:
        """Note that a test failed a program."""
        self._kills[key][index] += 1

    def score_of(self, key: str) -> Score | None:
        """The score of a program already judged."""
        return self._scores.get(key)

    def remember(self, key: str, score: Score) -> None:
        """Keep a score, unless it says nothing about the program."""
        if score.verdict is not Verdict.INFRASTRUCTURE:
            self._scores[key] = score
            _touch(self._scores, key)


def _touch(store: OrderedDict[str, Any], key: str) -> None:
    store.move_to_end(key)
    if len(store) > _MAX_REMEMBERED:
        store.popitem(last=False)


def judge(
    code: str, tests: CodeTests, executor: CodeExecutor, limits: RunLimits, order: TestOrder | None = None
) -> Score:
    """Run a program on its tests until one fails.

    Args:
        limits: per test; loading a program for calls counts as a test of its own.
        order: shared over the programs of a run; None starts without experience.
    Returns:
        ``seconds`` is CPU time of the program over all tests.
    """
    order = order or TestOrder()
    problem = hashlib.sha256(json.dumps([to_json(tests), to_json(limits)]).encode()).hexdigest()
    program = hashlib.sha256(f"{problem}\n{code}".encode("utf-8", "replace")).hexdigest()
    known = order.score_of(program)
    if known is not None:
        return replace(known, seconds=0.0)
    patient = replace(limits, time_limit_s=limits.time_limit_s * NEAR_LIMIT)
    if tests.stdin:
        score = _judge_stdin(code, tests, executor, limits, patient, order, problem)
    elif tests.calls:
        score = _judge_calls(code, tests, executor, limits, patient, order, problem)
    else:
        assert tests.script is not None
        score = _judge_script(code, tests.script, tests.setup, executor, limits, patient)
    order.remember(program, score)
    return score


def _judge_stdin(
    code: str,
    tests: CodeTests,
    executor: CodeExecutor,
    limits: RunLimits,
    patient: RunLimits,
    order: TestOrder,
    problem: str,
) -> Score:
    seconds = 0.0
    for index in order.order(problem, len(tests.stdin)):
        case = tests.stdin[index]
        result = executor.run(code, case.input, patient)
        if _is_near_limit(result, limits):
            result = executor.run(code, case.input, limits)
        seconds += result.cpu_s
        failed = _failure(result, index, len(tests.stdin))
        if failed is None and not same_output(result.output, case.output):
            failed = Score.of(Verdict.WRONG, 0.0, f"test {index + 1} of {len(tests.stdin)}: {_shown(result.output)}")
        if failed is not None:
            order.failed(problem, index)
            return replace(failed, seconds=seconds)
    return Score.of(Verdict.CORRECT, seconds, f"{len(tests.stdin)} tests")


def _judge_calls(
    code: str,
    tests: CodeTests,
    executor: CodeExecutor,
    limits: RunLimits,
    patient: RunLimits,
    order: TestOrder,
    problem: str,
) -> Score:
    seconds = 0.0
    with executor.load(code, patient, tests.setup) as program:
        for index in order.order(problem, len(tests.calls)):
            case = tests.calls[index]
            result = program.call(case.function, case.args, case.kwargs)
            if _is_near_limit(result, limits):
                with executor.load(code, limits, tests.setup) as alone:
                    result = alone.call(case.function, case.args, case.kwargs)
            seconds += result.cpu_s
            failed = _failure(result, index, len(tests.calls))
            if failed is None and not right_value(case, result.value):
                failed = Score.of(
                    Verdict.WRONG, 0.0, f"test {index + 1} of {len(tests.calls)}: {_shown(json.dumps(result.value))}"
                )
            if failed is not None:
                order.failed(problem, index)
                return replace(failed, seconds=seconds)
    return Score.of(Verdict.CORRECT, seconds, f"{len(tests.calls)} tests")


def _judge_script(
    code: str, script: AssertScript, setup: str, executor: CodeExecutor, limits: RunLimits, patient: RunLimits
) -> Score:
    def run(within: RunLimits) -> RunResult:
        return executor.run_script(
            script.script, code, within, setup=setup, functions=script.called, entry_point=script.entry_point
        )

    result = run(patient)
    if _is_near_limit(result, limits):
        result = run(limits)
    failed = _failure(result, 0, 1)
    return replace(failed or Score.of(Verdict.CORRECT, 0.0, "assert script"), seconds=result.cpu_s)


def _is_near_limit(result: RunResult, limits: RunLimits) -> bool:
    """It ended, but beyond its limit: worth a second run, by itself, which then counts."""
    return result.failure is None and result.cpu_s > limits.time_limit_s


def _failure(result: RunResult, index: int, count: int) -> Score | None:
    if result.failure is None:
        return None
    return Score.of(result.failure, 0.0, f"test {index + 1} of {count}: {result.detail}")


def _shown(output: str) -> str:
    text = " ".join(output.split())
    return f"got {text[:80]!r}" + ("..." if len(text) > 80 else "")
