"""The math verdict of whole responses: where the answer is looked for, and what it is called when it is not there."""

from __future__ import annotations

import pytest

from nemo_acereason.records import Prompt, Sample, Verdict
from nemo_acereason.rewards.math import judge_math, math_reward
from nemo_acereason.rewards.math_answer import last_boxed


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"\boxed{5}", "5"),
        (r"\boxed{1} and then \boxed{2}", "2"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{\boxed{5}}", r"\boxed{5}"),
        (r"\boxed {7}", "7"),
        (r"\\boxed{7}", "7"),
        (r"{ \boxed{5}", "5"),
        (r"} \boxed{5} }", "5"),
        (r"\boxed{ \boxed{5}", "5"),
        (r"\boxed{5} and \boxed{6", None),
        (r"\boxed{5", None),
        (r"\boxed5", None),
        ("the answer is 5", None),
        (r"\boxed{}", ""),
        (r"\boxed{a\}", None),
        ("", None),
    ],
)
def test_last_complete_box(text: str, answer: str | None) -> None:
    assert last_boxed(text) == answer


@pytest.mark.parametrize(
    ("response", "finish_reason", "verdict"),
    [
        (r"<think>hm</think> \boxed{5}", "stop", Verdict.CORRECT),
        (r"<think>\boxed{4}</think> \boxed{5}", "stop", Verdict.CORRECT),
        (r"<think>\boxed{5}</think> \boxed{4}", "stop", Verdict.WRONG),
        (r"<think>\boxed{5}</think> it is five", "stop", Verdict.NO_ANSWER),
        (r"a</think>\boxed{4}</think>\boxed{5}", "stop", Verdict.CORRECT),
        (r"a</think>\boxed{5}</think>nothing", "stop", Verdict.NO_ANSWER),
        (r"<think>\boxed{5}", "stop", Verdict.UNFINISHED),
        (r"<think>\boxed{5}", "length", Verdict.UNFINISHED),
        (r"a</think> so \boxed{5", "length", Verdict.UNFINISHED),
        (r"a</think> so \boxed{5", "stop", Verdict.NO_ANSWER),
        (r"a</think> \boxed{5} because", "length", Verdict.CORRECT),
        (r"a</think> \boxed{}", "stop", Verdict.NO_ANSWER),
        (r"a</think> \boxed{   }", "stop", Verdict.NO_ANSWER),
        (r"a</think> \boxed{\frac{5}}", "stop", Verdict.UNPARSEABLE),
        (r"a</think> \boxed{10^{10^{10^{10}}}}", "stop", Verdict.UNPARSEABLE),
        ("a</think> \\boxed{5\x00}", "stop", Verdict.CORRECT),
        ("", "stop", Verdict.UNFINISHED),
    ],
)
def test_verdicts(response: str, finish_reason: str, verdict: Verdict) -> None:
    score = judge_math(response, "5", requires_think=True, finish_reason=finish_reason)
    assert score.verdict is verdict
    assert score.reward == (1.0 if verdict is Verdict.CORRECT else 0.0)


def test_a_response_without_thinking_is_judged_where_the_format_has_none() -> None:
    assert judge_math(r"\boxed{5}", "5", requires_think=False, finish_reason="stop").verdict is Verdict.CORRECT


def test_reward_takes_gold_from_the_prompt_and_the_reason_from_the_sample() -> None:
    prompt = Prompt("p", "", 5, "math", "", ())  # a number, as some data files have it
    assert math_reward(prompt, Sample((), (), r"</think>\boxed{5}", "stop", 0)).verdict is Verdict.CORRECT
    assert math_reward(prompt, Sample((), (), "</think>", "length", 0)).verdict is Verdict.UNFINISHED
    no_thinking = Sample((), (), r"\boxed{5}", "stop", 0)
    assert math_reward(prompt, no_thinking, requires_think=False).verdict is Verdict.CORRECT


def test_detail_says_what_was_compared() -> None:
    assert judge_math(r"\boxed{4}", "5").detail == "4 against 5"
