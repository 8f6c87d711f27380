"""The code reward: program out of the response, tests out of the prompt, verdict out of the sandbox."""

from __future__ import annotations

import functools
import json
from typing import Any

from nemo_acereason.protocols import CodeExecutor
from nemo_acereason.records import Prompt, RunLimits, Sample, Score, Verdict
from nemo_acereason.rewards.code_formats import CodeTests, read_tests
from nemo_acereason.rewards.code_program import find_program
from nemo_acereason.rewards.code_tests import TestOrder, judge
from nemo_acereason.sandbox.executor import executor_of_this_process

_DEFAULT = RunLimits()
_order = TestOrder()


def code_reward(
    prompt: Prompt,
    sample: Sample,
    *,
    requires_think: bool = True,
    time_limit_s: float = _DEFAULT.time_limit_s,
    memory_bytes: int = _DEFAULT.memory_bytes,
    output_bytes: int = _DEFAULT.output_bytes,
    isolation: str = "auto",
) -> Score:
    """1 if the program of the response passes every test of ``prompt.reference``, else 0.

    A problem's own ``time_limit_s`` or ``memory_mb``, in the row's other columns, goes before the argument.

    Raises:
        ConfigError: the isolation asked for cannot be had here.
        DataError: the prompt's tests are in no known format.
    Source: AceReason-Nemotron 1.0 sec. 3.1.
    """
    program = find_program(sample.text, requires_think=requires_think)
    if isinstance(program, Verdict):
        if program is Verdict.NO_ANSWER and sample.is_unfinished:
            program = Verdict.UNFINISHED
        return Score.of(program)
    extra = prompt.extra
    memory_mb = extra.get("memory_mb")
    limits = RunLimits(
        float(extra.get("time_limit_s") or time_limit_s),
        int(memory_mb) << 20 if memory_mb else memory_bytes,
        output_bytes,
    )
    tests = _tests_of(json.dumps(prompt.reference), prompt.problem, str(extra.get("starter_code") or ""))
    return judge(program, tests, executor_of_this_process(isolation), limits, _order)


def judge_code(
    code: str,
    tests: Any,
    *,
    executor: CodeExecutor,
    time_limit_s: float = _DEFAULT.time_limit_s,
    memory_bytes: int = _DEFAULT.memory_bytes,
) -> Score:
    """Judge a program that is already at hand.

    Raises:
        DataError: the tests are in no known format.
    """
    return judge(code, read_tests(tests), executor, RunLimits(time_limit_s, memory_bytes), _order)


@functools.lru_cache(maxsize=1024)
def _tests_of(reference: str, problem: str, starter_code: str) -> CodeTests:
    """The tests of a problem, read once for its group of samples."""
    return read_tests(json.loads(reference), problem=problem, starter_code=starter_code)
