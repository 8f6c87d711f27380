"""Numbers in words."""

from __future__ import annotations

from fractions import Fraction

import pytest

from nemo_acereason.rewards.math_words import spoken_number


@pytest.mark.parametrize(
    ("said", "value"),
    [
        ("zero", Fraction(0)),
        ("seventeen", Fraction(17)),
        ("forty-two", Fraction(42)),
        ("forty two", Fraction(42)),
        ("one hundred five", Fraction(105)),
        ("twelve hundred", Fraction(1200)),
        ("three thousand twenty", Fraction(3020)),
        ("two million one", Fraction(2_000_001)),
        ("negative three", Fraction(-3)),
        ("half", Fraction(1, 2)),
        ("one-half", Fraction(1, 2)),
        ("two thirds", Fraction(2, 3)),
        ("three quarters", Fraction(3, 4)),
        ("minus one half", Fraction(-1, 2)),
    ],
)
def test_a_number_is_understood(said: str, value: Fraction) -> None:
    assert spoken_number(said) == value


@pytest.mark.parametrize(
    "said", ["", "third", "one two", "forty forty", "twenty zero", "hundred", "one second", "negative", "odd", "one of"]
)
def test_what_is_no_number_or_only_an_order_is_none(said: str) -> None:
    assert spoken_number(said) is None
