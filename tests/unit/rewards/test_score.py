"""What reward functions return, as scores; scores, as rewards and masks."""

from __future__ import annotations

import math

import pytest

from nemo_acereason.records import Score, Verdict
from nemo_acereason.rewards.score import as_score, load_reward


@pytest.mark.parametrize(
    ("result", "verdict", "reward"),
    [
        (True, Verdict.CORRECT, 1.0),
        (False, Verdict.WRONG, 0.0),
        (1, Verdict.CORRECT, 1.0),
        (0.25, Verdict.WRONG, 0.25),
        (-1.0, Verdict.WRONG, -1.0),
        (2.5, Verdict.CORRECT, 2.5),
    ],
)
def test_numbers_and_bools_become_scores(result: float, verdict: Verdict, reward: float) -> None:
    assert as_score(result, 0.5) == Score(verdict, reward, 0.5)


def test_a_score_keeps_its_own_time_and_gets_one_where_it_has_none() -> None:
    assert as_score(Score.of(Verdict.TIMEOUT, 3.0), 9.0).seconds == 3.0
    assert as_score(Score.of(Verdict.TIMEOUT), 9.0).seconds == 9.0


@pytest.mark.parametrize("result", [math.nan, math.inf])
def test_a_reward_that_is_not_finite_is_refused(result: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        as_score(result)


@pytest.mark.parametrize("result", [None, "1", [1.0]])
def test_other_types_are_refused(result: object) -> None:
    with pytest.raises(TypeError, match="a Score, a number or a bool"):
        as_score(result)


def test_load_reward_names_what_is_wrong() -> None:
    assert load_reward("math:sqrt") is math.sqrt
    with pytest.raises(ValueError, match="module:function"):
        load_reward("math.sqrt")
    with pytest.raises(ValueError, match="not a function"):
        load_reward("math:pi")
