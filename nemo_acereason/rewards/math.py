"""The math reward: is the boxed answer after the thinking equal to the gold one.

Finds the answer (:mod:`nemo_acereason.rewards.math_answer`), compares it (:mod:`nemo_acereason.rewards.math_equal`)
and names the verdict. It has no time limit of its own: the pool that calls it kills the process.
"""

from __future__ import annotations

import time

from nemo_acereason.records import Prompt, Sample, Score, Verdict
from nemo_acereason.rewards.math_answer import THINK_END, after_thinking, last_boxed
from nemo_acereason.rewards.math_equal import Comparison, compare

_VERDICTS = {
    Comparison.SAME: Verdict.CORRECT,
    Comparison.DIFFERENT: Verdict.WRONG,
    Comparison.UNREADABLE: Verdict.UNPARSEABLE,
}


def math_reward(prompt: Prompt, sample: Sample, *, requires_think: bool = True) -> Score:
    """1 for an answer equal to ``prompt.reference``, else 0 [A 3.1].

    Args:
        requires_think: the response must close its thinking with ``</think>``; off for formats that have none.
    """
    return judge_math(
        sample.text, str(prompt.reference), requires_think=requires_think, finish_reason=sample.finish_reason
    )


def judge_math(response: str, gold: str, *, requires_think: bool = False, finish_reason: str = "stop") -> Score:
    """Judge one response by its text alone."""
    start = time.perf_counter()
    visible, has_ended_thinking = after_thinking(response)
    if requires_think and not has_ended_thinking:
        return Score.of(Verdict.UNFINISHED, time.perf_counter() - start, f"no {THINK_END} in the response")
    answer = last_boxed(visible)
    if answer is None or not answer.strip():
        cut = finish_reason == "length"
        verdict = Verdict.UNFINISHED if cut else Verdict.NO_ANSWER
        return Score.of(verdict, time.perf_counter() - start, "cut off before an answer" if cut else "no \\boxed{}")
    verdict = _VERDICTS[compare(gold, answer)]
    return Score.of(verdict, time.perf_counter() - start, f"{answer[:100]} against {gold[:100]}")
