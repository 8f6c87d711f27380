"""Make labelled cases from any list of gold answers by rule: the same answer otherwise written, and wrong ones near it.

Each rule keeps or breaks equality whatever the answer is, so the label needs no judge. Rules that could not promise
that for an answer pass it by.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from fractions import Fraction
from typing import NamedTuple


class Case(NamedTuple):
    """One labelled comparison."""

    gold: str
    answer: str
    is_correct: bool
    rule: str


_INTEGER = re.compile(r"-?\d{1,9}")
_FRACTION = re.compile(r"(?P<sign>-?)\\[dt]?frac\{(?P<top>\d+)\}\{(?P<bottom>\d+)\}")
_TUPLE = re.compile(r"\((?P<inside>[^()\[\]]*,[^()\[\]]*)\)")
_INTERVAL = re.compile(r"(?P<opening>[(\[])(?P<inside>[^()\[\]]*,[^()\[\]]*)(?P<closing>[)\]])")


def rewrites(gold: str) -> Iterator[Case]:
    """All cases the rules make of one gold answer."""
    gold = gold.strip()
    for rule, answer in _same(gold):
        yield Case(gold, answer, True, rule)
    for rule, answer in _different(gold):
        yield Case(gold, answer, False, rule)


def _same(gold: str) -> Iterator[tuple[str, str]]:
    yield "as it is", gold
    yield "dollars around", f"${gold}$"
    if not gold.endswith("."):
        yield "full stop", f"{gold}."
    yield "displaystyle", f"\\displaystyle {gold}"
    if "\\frac" in gold:
        yield "dfrac", gold.replace("\\frac", "\\dfrac")
    if "(" in gold and "\\left" not in gold and gold.count("(") == gold.count(")"):
        yield "left right", gold.replace("(", "\\left(").replace(")", "\\right)")
    if "\\left" in gold:
        yield "no left right", gold.replace("\\left", "").replace("\\right", "")
    if "\\text" not in gold and "\\mbox" not in gold:
        yield "wide spaces", re.sub(r"(?<=[,+=&])\s*", "  ", gold) if not re.search(r"\d,\s*\d{3}|\\!", gold) else gold
    if "pmatrix" in gold:
        yield "bmatrix", gold.replace("pmatrix", "bmatrix")
    if _INTEGER.fullmatch(gold):
        value = int(gold)
        yield "point zero", f"{value}.0"
        yield "fraction", f"\\frac{{{3 * value}}}{{3}}"
        yield "named", f"n = {value}"
        yield "sum", f"{value - 7} + 7"
        if abs(value) >= 1000:
            yield "thousands", f"{value:,}"
    if found := _FRACTION.fullmatch(gold):
        top, bottom, sign = int(found["top"]), int(found["bottom"]), found["sign"]
        yield "slash", f"{sign}{top}/{bottom}"
        yield "not reduced", f"{sign}\\frac{{{top * 6}}}{{{bottom * 6}}}"
        value = Fraction(top, bottom)
        if value.denominator in (2, 4, 5, 8, 10, 16, 20, 25):
            yield "decimal", f"{sign}{float(value)}"


def _different(gold: str) -> Iterator[tuple[str, str]]:
    digits = list(re.finditer(r"\d", gold))
    if digits and "\\%" not in gold and ":" not in gold:
        last = digits[-1]
        if not (last.group() == "0" and "." in gold):
            yield "last digit", gold[: last.start()] + str((int(last.group()) + 1) % 10) + gold[last.end() :]
    if re.search(r"[\w})]\s*\+", gold) and "\\pm" not in gold and not re.search(r"[,]|i", gold):
        yield "sign", gold.replace("+", "-", 1)
    if _INTEGER.fullmatch(gold):
        value = int(gold)
        yield "next", str(value + 1)
        yield "list with another", f"{value}, {value + 1}"
        yield "a tenth", f"{value / 10}" if value else "0.1"
        yield "times x", f"{value + 1}x"
        yield "equation of x", f"x + 1 = {value}"
        if value:
            yield "negated", str(-value)
            yield "times ten", str(value * 10)
    if found := _FRACTION.fullmatch(gold):
        top, bottom, sign = int(found["top"]), int(found["bottom"]), found["sign"]
        value = Fraction(top, bottom)
        if top != bottom:
            yield "upside down", f"{sign}\\frac{{{bottom}}}{{{top}}}" if top else "1"
        if Fraction(str(round(float(value), 3))) != value:
            yield "rounded", f"{sign}{float(value):.3f}"
        yield "negated", gold[1:] if sign else f"-{gold}"
    if found := _TUPLE.fullmatch(gold):
        parts = [part.strip() for part in found["inside"].split(",")]
        if len(set(parts)) == len(parts):
            yield "reversed", f"({', '.join(reversed(parts))})"
        yield "one more", f"({', '.join([*parts, '1'])})"
    if (found := _INTERVAL.fullmatch(gold)) and "infty" not in gold and found["opening"] + found["closing"] != "()":
        other = "(" if found["opening"] == "[" else "["
        yield "other bracket", f"{other}{found['inside']}{found['closing']}"
    if "\\sqrt" in gold:
        yield "without root", gold.replace("\\sqrt", "", 1) if "\\sqrt[" not in gold else "\\sqrt{7919}"
    if "\\pi" in gold:
        yield "without pi", re.sub(r"\\pi", "1", gold, count=1)
