"""From a response to its score, through a real sandbox."""

from __future__ import annotations

import shutil
from typing import Any

import pytest

from nemo_acereason.errors import ConfigError, DataError
from nemo_acereason.records import Prompt, Sample, Verdict
from nemo_acereason.sandbox.code_reward import code_reward, judge_code
from nemo_acereason.sandbox.executor import executor_of_this_process

pytestmark = pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed")
DOUBLE = {"kind": "stdin", "cases": [{"input": "3\n", "output": "6"}, {"input": "4\n", "output": "8"}]}


def _prompt(tests: Any, **extra: Any) -> Prompt:
    return Prompt("p", "Double the number.", tests, "code", "", (), extra)


def _sample(text: str, finish_reason: str = "stop") -> Sample:
    return Sample((), (), text, finish_reason, 0)


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("<think>easy</think>\n```python\nprint(int(input()) * 2)\n```", Verdict.CORRECT),
        ("<think>easy</think>\n```python\nprint(6)\n```", Verdict.WRONG),
        ("<think>easy</think>\n```python\nprint(int(input()) *\n```", Verdict.CRASH),
        ("<think>easy</think>\nprint(int(input()) * 2)", Verdict.NO_ANSWER),
        ("<think>\n```python\nprint(int(input()) * 2)\n```", Verdict.UNFINISHED),
    ],
)
def test_a_response_gets_its_verdict(text: str, verdict: Verdict) -> None:
    score = code_reward(_prompt(DOUBLE), _sample(text))
    assert score.verdict is verdict
    assert score.reward == (1.0 if verdict is Verdict.CORRECT else 0.0)


def test_a_response_cut_off_in_its_program_is_unfinished() -> None:
    text = "</think>\n```python\nprint("
    assert code_reward(_prompt(DOUBLE), _sample(text, "length")).verdict is Verdict.UNFINISHED
    assert code_reward(_prompt(DOUBLE), _sample(text, "stop")).verdict is Verdict.NO_ANSWER


def test_formats_without_a_thought_can_be_had() -> None:
    text = "```python\nprint(int(input()) * 2)\n```"
    assert code_reward(_prompt(DOUBLE), _sample(text), requires_think=False).verdict is Verdict.CORRECT


def test_limits_of_the_problem_go_before_those_of_the_recipe() -> None:
    spin = _sample("</think>\n```python\nwhile True: pass\n```")
    score = code_reward(_prompt(DOUBLE, time_limit_s=0.2), spin, time_limit_s=30.0)
    assert score.verdict is Verdict.TIMEOUT
    hungry = _sample("</think>\n```python\nx = bytearray(1 << 29)\nprint(int(input()) * 2)\n```")
    assert code_reward(_prompt(DOUBLE), hungry).verdict is Verdict.CORRECT
    assert code_reward(_prompt(DOUBLE, memory_mb=256), hungry).verdict is Verdict.MEMORY


def test_starter_code_names_the_function_of_livecodebench_rows() -> None:
    rows = [{"input": "3", "output": "6", "testtype": "functional"}]
    prompt = _prompt(rows, starter_code="class Solution:\n    def twice(self, n: int) -> int:\n")
    text = "</think>\n```python\nclass Solution:\n    def twice(self, n): return 2 * n\n```"
    assert code_reward(prompt, _sample(text)).verdict is Verdict.CORRECT


def test_humaneval_with_and_without_a_loop_in_its_check() -> None:
    row = {"prompt": "import math\n\ndef root(x):\n    ''' root '''\n", "entry_point": "root"}
    plain = {**row, "test": "def check(candidate):\n    assert candidate(4.0) == 2.0\n"}
    loop = {
        **row,
        "test": "def check(candidate):\n    for x in (4, 9):\n        assert abs(candidate(x) ** 2 - x) < 1e-6\n",
    }
    good = _sample("</think>\n```python\ndef root(x):\n    return math.sqrt(x)\n```")
    bad = _sample("</think>\n```python\ndef root(x):\n    return 7.0\n```")
    for tests in (plain, loop):
        assert code_reward(_prompt(tests), good).verdict is Verdict.CORRECT
        assert code_reward(_prompt(tests), bad).verdict is Verdict.WRONG


def test_a_program_at_hand_is_judged_like_one_in_a_response() -> None:
    executor = executor_of_this_process("kernel")
    assert judge_code("print(int(input()) * 2)", DOUBLE, executor=executor).verdict is Verdict.CORRECT
    with pytest.raises(DataError, match="no known format"):
        judge_code("print(1)", {"what": 1}, executor=executor)


def test_an_unknown_isolation_is_the_users_mistake() -> None:
    with pytest.raises(ConfigError, match="vm"):
        code_reward(_prompt(DOUBLE), _sample("</think>\n```python\nprint(1)\n```"), isolation="vm")
