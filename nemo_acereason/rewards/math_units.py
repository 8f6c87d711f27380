"""Units of answers: one name for each, and what one is of another where both measure the same."""

from __future__ import annotations

import functools
import re
from fractions import Fraction

_SCALES = {
    "hundred": 100,
    "thousand": 10**3,
    "million": 10**6,
    "billion": 10**9,
    "trillion": 10**12,
    "dozen": 12,
}
_NAMES = {
    "meter": "m metre meters metres",
    "centimeter": "cm centimetre centimeters centimetres cms",
    "millimeter": "mm millimetre millimeters millimetres",
    "kilometer": "km kilometre kilometers kilometres kms",
    "inch": "in inches ins",
    "foot": "ft feet",
    "yard": "yd yards yds",
    "mile": "mi miles",
    "second": "s sec secs seconds",
    "minute": "min mins minutes",
    "hour": "h hr hrs hours",
    "day": "days",
    "week": "weeks",
    "month": "months",
    "year": "yr yrs years",
    "gram": "g grams",
    "kilogram": "kg kilograms kgs",
    "milligram": "mg milligrams",
    "pound": "lb lbs pounds",
    "ounce": "oz ounces",
    "liter": "l litre liters litres",
    "milliliter": "ml millilitre milliliters millilitres",
    "gallon": "gal gallons",
    "quart": "qt quarts",
    "pint": "pt pints",
    "cup": "cups",
    "dollar": "dollars usd",
    "cent": "cents ¢",
    "degree": "degrees deg °",
    "radian": "radians rad",
    "unit": "units",
    "%": "percent percents percentage pct",
}
_ALIASES = {alias: name for name, aliases in _NAMES.items() for alias in (*aliases.split(), name)}
_SIZES: dict[str, tuple[str, Fraction]] = {
    "millimeter": ("length", Fraction(1, 1000)),
    "centimeter": ("length", Fraction(1, 100)),
    "meter": ("length", Fraction(1)),
    "kilometer": ("length", Fraction(1000)),
    "inch": ("length", Fraction(254, 10000)),
    "foot": ("length", Fraction(3048, 10000)),
    "yard": ("length", Fraction(9144, 10000)),
    "mile": ("length", Fraction(1609344, 1000)),
    "second": ("time", Fraction(1)),
    "minute": ("time", Fraction(60)),
    "hour": ("time", Fraction(3600)),
    "day": ("time", Fraction(86400)),
    "week": ("time", Fraction(604800)),
    "milligram": ("mass", Fraction(1, 1000)),
    "gram": ("mass", Fraction(1)),
    "kilogram": ("mass", Fraction(1000)),
    "milliliter": ("volume", Fraction(1, 1000)),
    "liter": ("volume", Fraction(1)),
    "cent": ("money", Fraction(1, 100)),
    "dollar": ("money", Fraction(1)),
}
_SPELLINGS = {"p.m.": "pm", "a.m.": "am", "p.m": "pm", "a.m": "am", "mph": "mile/hour", "kmh": "kilometer/hour"}
_SPELLINGS |= {"kph": "kilometer/hour"}
_SPELLED = re.compile("|".join(re.escape(spelling) for spelling in _SPELLINGS))
_DROPPED = frozenset(["of", "the", "a", "an", "approximately", "about", "total"])


def scale_words(unit: str) -> tuple[int, str]:
    """``million dollars`` as 1,000,000 and ``dollars``."""
    factor = 1
    words = unit.split()
    while words and words[0].lower() in _SCALES:
        factor *= _SCALES[words.pop(0).lower()]
    return factor, " ".join(words)


@functools.lru_cache(maxsize=1024)
def canonical(unit: str) -> tuple[tuple[str, int], ...]:
    """A unit as sorted powers of names: ``square centimeters`` and ``cm^2`` are ``(("centimeter", 2),)``."""
    text = re.sub(r"[{}\\~]|text|mathrm", " ", unit).lower().strip(" .,;")
    powers: dict[str, int] = {}
    sign = power = 1
    last = ""
    for word in re.findall(r"\^\s*-?\s*\d+|/|[^\s^/*·]+", _SPELLED.sub(lambda found: _SPELLINGS[found.group()], text)):
        if word.startswith("^"):
            exponent = int(word[1:].replace(" ", "")[:4])
            if last:
                powers[last] += sign * (exponent - 1)
        elif word in ("/", "per"):
            sign = -1
        elif word in ("square", "sq", "sq."):
            power = 2
        elif word in ("cubic", "cu", "cu."):
            power = 3
        elif word in ("squared", "cubed") and last:
            powers[last] += sign * (1 if word == "squared" else 2)
        elif word not in _DROPPED:
            stem = word.strip(".,;()")
            last = _ALIASES.get(stem) or (stem[:-1] if stem.endswith("s") and len(stem) > 3 else stem)
            powers[last] = powers.get(last, 0) + sign * power
            power = 1
    return tuple(sorted((name, count) for name, count in powers.items() if count))


def same_unit_factor(gold: str, answer: str) -> Fraction | None:
    """How many of the gold's unit one of the answer's is; 1 for the same unit, None for units that do not compare.

    ``units`` stands for whichever unit the other has, ``square units`` for any square of one.
    """
    first, second = canonical(gold), canonical(answer)
    if first == second or _is_generic(first, second) or _is_generic(second, first):
        return Fraction(1)
    kinds = [
        sorted((_SIZES.get(name, (name, Fraction(1)))[0], power) for name, power in unit) for unit in (first, second)
    ]
    if kinds[0] != kinds[1]:
        return None
    return _size(second) / _size(first)


def _is_generic(unit: tuple[tuple[str, int], ...], other: tuple[tuple[str, int], ...]) -> bool:
    if len(unit) != 1 or len(other) != 1 or unit[0][0] != "unit":
        return False
    return unit[0][1] == other[0][1] and other[0][0] not in ("%", "degree", "radian")


def _size(unit: tuple[tuple[str, int], ...]) -> Fraction:
    size = Fraction(1)
    for name, power in unit:
        size *= _SIZES.get(name, ("", Fraction(1)))[1] ** power
    return size
