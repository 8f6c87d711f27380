"""Numbers written in words: ``forty-two``, ``two thirds``, ``negative one half``. English only; knows no LaTeX."""

from __future__ import annotations

from fractions import Fraction

_UNITS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
)
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
_SMALL = {word: value for value, word in enumerate(_UNITS.split())}
_SMALL |= {word: 10 * value for value, word in enumerate(_TENS.split(), start=2)}
_LARGE = {"hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9}
_PARTS = {"half": 2, "halves": 2, "quarter": 4}
_PARTS |= {
    name: value
    for value, name in enumerate("third fourth fifth sixth seventh eighth ninth tenth".split(), start=3)  # noqa: SIM905
}
_PARTS |= {f"{name}s": value for name, value in _PARTS.items() if not name.startswith("hal")}


def spoken_number(said: str) -> Fraction | None:
    """The number that folded words say; None where they say none, or only an order (``third``)."""
    words = said.replace("-", " ").split()
    if len(words) > 1 and words[0] in ("negative", "minus"):
        value = spoken_number(" ".join(words[1:]))
        return None if value is None else -value
    if words == ["half"]:
        return Fraction(1, 2)
    if len(words) > 1 and words[-1] in _PARTS:
        count = _spoken_integer(words[:-1])
        return None if count is None else Fraction(count, _PARTS[words[-1]])
    count = _spoken_integer(words)
    return None if count is None else Fraction(count)


def _spoken_integer(words: list[str]) -> int | None:
    total = group = 0
    previous = 0
    for word in words:
        if word in _LARGE and previous:
            if word == "hundred":
                group *= 100
            else:
                total, group = total + group * _LARGE[word], 0
            previous = _LARGE[word]
        elif word in _SMALL and (not previous or previous >= 100 or (previous >= 20 and 0 < _SMALL[word] < 10)):
            group += _SMALL[word]
            previous = _SMALL[word] or 1
        else:
            return None
    return total + group if words else None
