"""Compare two answers given as LaTeX. Pure: no process, no clock."""

from __future__ import annotations

from fractions import Fraction


def is_equal(gold: str, answer: str) -> bool:
    """Whether ``answer`` says the same as ``gold``."""
    gold, answer = gold.strip(), answer.strip()
    if gold == answer:
        return True
    try:
        return Fraction(gold) == Fraction(answer)
    except (ValueError, ZeroDivisionError):
        pass
    from math_verify import parse, verify  # row 1 stays importable without it

    return bool(
        verify(
            parse(f"\\boxed{{{gold}}}", parsing_timeout=None),
            parse(f"\\boxed{{{answer}}}", parsing_timeout=None),
            timeout_seconds=None,
        )
    )
