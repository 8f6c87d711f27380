"""Reward functions by name, what they return as scores, and scores as the numbers the algorithm takes.

Judges nothing itself.
"""

from __future__ import annotations

import functools
import importlib
import math

from nemo_acereason.config.load import import_file
from nemo_acereason.protocols import Reward
from nemo_acereason.records import Score, Verdict


@functools.lru_cache(maxsize=64)
def load_reward(function: str) -> Reward:
    """Import ``module:function``, or ``FILE.py:function`` from that file.

    Raises:
        ValueError: not of that form, or not callable.
        ImportError: no such module.
        AttributeError: no such function in it.
    """
    module, separator, name = function.rpartition(":")
    if not separator or not module or not name:
        raise ValueError(f"reward function {function!r} is not of the form module:function")
    found = getattr(import_file(module) if module.endswith(".py") else importlib.import_module(module), name)
    if not callable(found):
        raise ValueError(f"{function} is a {type(found).__name__}, not a function")
    return found  # type: ignore[no-any-return]


def as_score(result: object, seconds: float = 0.0) -> Score:
    """The return value of any reward function as a :class:`Score`.

    A bool is correct or wrong. A number is the reward itself; it counts as correct from 1 upwards. A ``Score`` that
    states no time gets ``seconds``.

    >>> as_score(True).verdict, as_score(0.25).reward
    (<Verdict.CORRECT: 'correct'>, 0.25)

    Raises:
        TypeError: something that is neither Score, number nor bool.
        ValueError: a number that is not finite.
    """
    if isinstance(result, Score):
        return result if result.seconds else Score(result.verdict, result.reward, seconds, result.detail)
    if isinstance(result, bool):
        return Score.of(Verdict.CORRECT if result else Verdict.WRONG, seconds)
    if isinstance(result, int | float):
        if not math.isfinite(result):
            raise ValueError(f"reward function returned {result}; it must return a finite number, a bool or a Score")
        return Score(Verdict.CORRECT if result >= 1.0 else Verdict.WRONG, float(result), seconds)
    raise TypeError(f"reward function returned {type(result).__name__}; it must return a Score, a number or a bool")
