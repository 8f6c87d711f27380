"""Decide whether two answers say the same. Pure: no process, no clock, no evaluation of text.

What counts as the same is listed, with an example of each rule, in ``docs/rewards.md``. The cheap and exact ways come
first: equal text, equal integers, equal trees, equal rationals; numbers of many digits decide the rest. The order of
the two matters in three places, all in the gold answer's favour: a unit or base that only it states may be left out, a
unit that it leaves out may be stated, and a decimal gold of four digits or more accepts the exact value it rounds.
"""

from __future__ import annotations

import enum
import functools
import itertools
import logging
import re
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any

from nemo_acereason.rewards.math_clean import clean, fold_words
from nemo_acereason.rewards.math_parse import parse
from nemo_acereason.rewards.math_region import region_of, same_region
from nemo_acereason.rewards.math_tokens import FUNCTIONS
from nemo_acereason.rewards.math_tree import (
    EMPTY_SET,
    INFINITY,
    REALS,
    Based,
    Collection,
    Matrix,
    Measured,
    Node,
    Number,
    Op,
    Ratio,
    Relation,
    SetOp,
    Symbol,
    Text,
    TooComplex,
    Unreadable,
    free_symbols,
    walk,
)
from nemo_acereason.rewards.math_units import canonical, same_unit_factor, scale_words
from nemo_acereason.rewards.math_value import HIGH, LOW, approximate, exact

MIN_ROUNDED_DIGITS = 4
"""A decimal gold of so many significant digits stands for the exact value it rounds; a shorter one for itself."""
MAX_ITEMS = 200
_INTEGER = re.compile(r"\s*([+-]?\d{1,400})\s*")
_NEGLIGIBLE = {LOW: LOW.mpf(10) ** -30, HIGH: HIGH.mpf(10) ** -160}
_AMBIGUOUS = re.compile(r"\d,\d{3}(?!\d)|\de[+-]\d")
_CHOICE = re.compile(
    r"(?:\\text\{)?\s*\(?\s*(?P<letter>[A-J])\s*(?:[):.]|\\?\})\s*\}?\s*[).:]?\s*"
    r"(?P<rest>[^\s+*/^=<>,&_).:!-].*)?"
)
_CLASS_NOUNS = frozenset(["function", "number", "integer", "triangle", "angle", "curve", "sequence"])
_SECOND_THOUGHT = re.compile(
    r"(?i:\A(?:(?:or|and|nor)\b|[&/+]|(?:is|was) (?:not|wrong|incorrect|false)\b|isn't\b))"
    r"|\A[A-J]\Z|(?<![A-Za-z(])\(?[A-J][):]|\b[A-E]\.(?=\s|\Z)|\banswer is\b"
)
"""After one choice: another, or that it is none. Whoever names two has not chosen."""
_LETTER_UNIT = re.compile(r"(?<=[\d})])(?:\s|\\[,;: ]|~)+(?P<unit>[mgshLl](?:\^(?:[23]|\{[23]\}))?)\s*\.?\s*\Z")
"""``50 m^2``: a letter that is a unit where the gold answer has no variables."""
_ASIDE = re.compile(
    r"\\text\{[\s,(]*(?:for|where|with)\b[^{}]*\}.*\Z"
    r"|[,;](?:\s|\\q?quad(?![a-zA-Z])|\\[,;: ]){0,9}[a-zA-Z]\s{0,9}(?:>|\\(?:geq?|in|neq?)(?![a-zA-Z]))[^,;]*\Z",
    re.DOTALL,
)
"""What an expression is said to hold for: ``2n + 1, n \\ge 1``."""
_TYPE = re.compile(r"\\(?:text|math(?:rm|bf|sf|tt)|operatorname|boxed|underline|q?quad)(?![a-zA-Z])|\\[,;: ]|[{}$()~]")
_MODULUS = re.compile(r"mod (\d{1,300})")
_OPTION = re.compile(
    r"(?:the )?(?:correct |final |right )?(?:option|choice|answer)?(?: is)?:?\s*"
    r"(?:option |choice )?\(?([a-j])\)?[.:)]?",
    re.IGNORECASE,
)


class Comparison(enum.Enum):
    """What comparing came to."""

    SAME = "same"
    DIFFERENT = "different"
    UNREADABLE = "unreadable"
    """The answer is not mathematics that can be compared, or larger than an answer may be."""


def is_equal(gold: str, answer: str) -> bool:
    """Whether ``answer`` says the same as ``gold``."""
    return compare(gold, answer) is Comparison.SAME


@functools.lru_cache(maxsize=16384)
def compare(gold: str, answer: str) -> Comparison:
    """Compare two answers as they stand in their boxes; never raises."""
    first, second = _INTEGER.fullmatch(gold), _INTEGER.fullmatch(answer)
    if first and second:
        return _outcome(int(first[1]) == int(second[1]))
    try:
        if _squeezed(gold) == _squeezed(answer):
            return _outcome(bool(_squeezed(gold)))
        return _compare_trees(gold, answer)
    except TooComplex:
        return Comparison.UNREADABLE
    except RecursionError:
        return Comparison.UNREADABLE


def _outcome(is_same: bool) -> Comparison:
    return Comparison.SAME if is_same else Comparison.DIFFERENT


def _squeezed(text: str) -> str:
    text = re.sub(r"\\[,;: ]|\\q?quad(?![a-zA-Z])", " ", clean(text)).replace("\\dfrac", "\\frac")
    return re.sub(r"(?<!\d)\s+|\s+(?!\d)", "", text)


def _compare_trees(gold: str, answer: str) -> Comparison:
    golds, answers = _readings(gold), _readings(answer)
    if golds and isinstance(golds[0], Text) and fold_words(clean(answer)) == golds[0].words:
        return Comparison.SAME
    if golds and isinstance(golds[0], Based) and _undressed(clean(answer)).upper() == golds[0].digits:
        return Comparison.SAME  # A5 for A5_{11}: else a product
    if golds:
        answers += _choice_readings(golds[0], answer)
        if free_symbols(golds[0]) and isinstance(golds[0], Op) and (aside := _ASIDE.search(answer)) is not None:
            answers += _readings(answer[: aside.start()])
        if not free_symbols(golds[0]) and (letter := _LETTER_UNIT.search(answer)) is not None:
            answers += _readings(f"{answer[: letter.start()]}\\text{{{letter['unit']}}}")
    if golds and answers:
        return _outcome(any(_same(left, right) for left in golds for right in answers))
    if golds and not isinstance(golds[0], Text) and not answers and not _is_beyond_grammar(answer):
        return Comparison.UNREADABLE
    if _is_beyond_grammar(gold) or _is_beyond_grammar(answer):
        return _ask_math_verify(gold, answer)
    return Comparison.DIFFERENT if golds else Comparison.UNREADABLE


def _readings(text: str) -> list[Node]:
    """The tree, and a second one where the text can be read two ways; none where it cannot be read."""
    trees: list[Node] = []
    for is_plain in (False, True) if _AMBIGUOUS.search(text) else (False,):
        try:
            trees.append(_normal(parse(text, is_plain)))
        except TooComplex:
            raise
        except Unreadable:
            continue
    return trees


def _choice_readings(gold: Node, answer: str) -> list[Node]:
    """``(C) 15`` and ``C: 15`` are choice C to a gold letter, and 15 to any other gold."""
    is_letter = isinstance(gold, Symbol) and len(gold.name) == 1
    text = clean(answer)
    if is_letter and (option := _OPTION.fullmatch(_undressed(text))) is not None:
        return [gold] if option[1].upper() == gold.name.upper() else []  # type: ignore[union-attr]
    found = _CHOICE.fullmatch(text)
    if found is None or not found["rest"] or _SECOND_THOUGHT.search(_without_dress(found["rest"])):
        return []
    if is_letter:
        return [Symbol(found["letter"])] if gold == Symbol(found["letter"]) else []
    return _readings(found["rest"])


def _without_dress(text: str) -> str:
    """Without commands and braces, brackets kept."""
    return " ".join(re.sub(r"\\[a-zA-Z]+|[{}$~\\]", " ", text).split())


def _undressed(text: str) -> str:
    """Without what only sets type; a command that means something stays."""
    return " ".join(_TYPE.sub(" ", text).split())


# ------------------------------------------------------------------------------------------------ shapes


def _normal(node: Node) -> Node:
    """Percent and degrees of a whole value become its unit; ``million`` becomes a factor."""
    match node:
        case Op(name="percent", args=(value,)):
            return Measured(value, "%")
        case Op(name="degree", args=(value,)):
            return Measured(value, "degree")
        case Op(name="neg", args=(Op(name="percent" | "degree" as kind, args=(value,)),)):
            return Measured(_negated(value), "%" if kind == "percent" else "degree")
        case Measured(value=Op(name="percent"), unit=_):
            return _normal(node.value)
        case Measured(value=value, unit=unit):
            factor, unit = scale_words(unit)
            value = _normal(value) if factor == 1 else Op("mul", (Number(Fraction(factor)), value))
            if not unit or isinstance(value, Measured):
                return value
            return Measured(value, unit)
        case Collection(items=items) if len(items) > MAX_ITEMS:
            raise TooComplex(f"a list of {len(items)} values")
        case Relation(sides=sides):
            return Relation(tuple(_normal(side) for side in sides), node.ops)
        case Collection(items=items):
            normal = tuple(_normal(item) for item in items)
            match normal[-1]:
                case Relation(sides=(Symbol(name=name), Symbol(name="\\mathbb{Z}")), ops=("in",)) if node.is_list:
                    named = tuple(_renamed(item, name, "k") for item in normal[:-1])  # any integer, whatever its name
                    return named[0] if len(named) == 1 else Collection(named, joiner=node.joiner)
            return Collection(
                _with_shared_unit(normal) if node.is_list else normal, node.opening, node.closing, node.joiner
            )
    return node


def _renamed(node: Node, old: str, new: str) -> Node:
    match node:
        case Symbol(name=name):
            return Symbol(new) if name == old else node
        case Op(args=args):
            return Op(node.name, tuple(_renamed(part, old, new) for part in args), node.label)
        case Relation(sides=sides):
            return Relation(tuple(_renamed(part, old, new) for part in sides), node.ops)
        case Collection(items=items):
            renamed = tuple(_renamed(part, old, new) for part in items)
            return Collection(renamed, node.opening, node.closing, node.joiner)
        case Measured(value=value):
            return Measured(_renamed(value, old, new), node.unit)
    return node


def _negated(value: Node) -> Node:
    return Number(-value.value, value.decimals) if isinstance(value, Number) else Op("neg", (value,))


def _with_shared_unit(items: tuple[Node, ...]) -> tuple[Node, ...]:
    """``3, 4 and 5 cm``: a unit on the last alone is everyone's."""
    last = items[-1]
    if isinstance(last, Measured) and not any(isinstance(item, Measured | Text | Relation) for item in items[:-1]):
        return (*(Measured(item, last.unit) for item in items[:-1]), last)
    return items


def _same(gold: Node, answer: Node) -> bool:
    if gold == answer:
        return True
    if isinstance(gold, Relation) or isinstance(answer, Relation):
        return _same_relations(gold, answer)
    if isinstance(gold, Collection) and isinstance(answer, Collection):
        return _same_collections(gold, answer)
    if isinstance(gold, SetOp) or isinstance(answer, SetOp) or {gold, answer} & {REALS, EMPTY_SET}:
        return _same_sets(gold, answer)
    if isinstance(gold, Measured) or isinstance(answer, Measured):
        return _same_measured(gold, answer)
    if isinstance(gold, Matrix) or isinstance(answer, Matrix):
        return _same_matrices(gold, answer)
    if isinstance(gold, Collection) or isinstance(answer, Collection):
        return _same_single(gold, answer)
    if isinstance(gold, Ratio) or isinstance(answer, Ratio):
        return _same_ratios(gold, answer)
    if isinstance(gold, Based) or isinstance(answer, Based):
        return _same_based(gold, answer)
    if isinstance(gold, Text) and isinstance(answer, Text):
        return _same_words(gold.words, answer.words)
    if isinstance(gold, Text) or isinstance(answer, Text):
        return False
    return same_scalar(gold, answer)


def _same_words(gold: str, answer: str) -> bool:
    """The same words, or one with a noun that says no more: ``odd`` and ``odd function``."""
    first, second = gold.split(), answer.split()
    longer, shorter = (first, second) if len(first) > len(second) else (second, first)
    return first == second or (longer[-1] in _CLASS_NOUNS and longer[:-1] == shorter)


# -- relations


def _same_relations(gold: Node, answer: Node) -> bool:
    if any(_has_order(side) for side in (gold, answer)):
        return _same_sets(gold, answer) or _same_inequality(gold, answer)
    match gold, answer:  # f(t) = t + 1 against f(x) = x + 1
        case (
            Relation(sides=(Op(name="mul", args=(Symbol() as function, Symbol(name=wanted))), _)),
            Relation(sides=(Op(name="mul", args=(Symbol() as other, Symbol(name=got))), _)),
        ) if function == other and wanted != got and wanted.islower() and wanted not in free_symbols(answer):
            answer = _renamed(answer, got, wanted)
    golds, answers = _values(gold), _values(answer)
    is_curve = isinstance(gold, Relation) and any(map(_is_power_of_name, walk(gold.sides[0])))
    if _names_conflict(gold, answer) or is_curve:  # x^2 + y^2 = 25 is not asked for by its right side
        golds = answers = []
    if any(_same(left, right) for left in golds for right in answers):
        return True
    return isinstance(gold, Relation) and isinstance(answer, Relation) and _same_equation(gold, answer)


def _has_order(node: Node) -> bool:
    return isinstance(node, Relation) and not set(node.ops) <= {"=", "~", "in"}


def _values(node: Node) -> list[Node]:
    """What a chain of equations says its subject is: its last side, or an approximation beside it.

    Empty where it is an equation in its own right, or contradicts itself.
    """
    if not isinstance(node, Relation):
        return [node]
    if node.ops == ("in",):
        return [node.sides[1]] if _is_label(node.sides[0]) else []
    if "in" in node.ops:
        return []
    first_approximate = node.ops.index("~") if "~" in node.ops else len(node.ops)
    sides = list(node.sides[: first_approximate + 1])
    rounded = list(node.sides[first_approximate + 1 :])
    if len(sides) == 2 and isinstance(sides[1], Symbol) and not _is_label(sides[0]):
        sides.reverse()
    while sides and _is_label(sides[0]) and (len(sides) > 1 or rounded):
        sides.pop(0)
    for side in sides[:-1]:
        if not _same(side, sides[-1]):
            return []
    if not sides:
        return rounded[-1:]
    if any(not _is_near(sides[-1], side) for side in rounded):
        return []
    return [sides[-1], *rounded]


def _is_label(node: Node) -> bool:
    """A name for what is asked, as ``x``, ``f(2)``, ``m+n``, ``\\angle ABC``; an expression with numbers is none."""
    match node:
        case Symbol():
            return node not in (INFINITY, REALS, EMPTY_SET) and node.name not in ("\\pi", "e", "i")
        case Text():
            return True
        case Op(name="call"):
            return True
        case Op(name="mul", args=(first, *rest)):
            names = (Number, Collection, Relation)  # f(2), f(a, b), P(X = 2)
            return _is_label(first) and all(_is_label(part) or isinstance(part, names) for part in rest)
        case Op(name="pow", args=(Symbol(), Number(value=exponent))):  # f^{-1}(x)
            return exponent == -1
        case Op(name="pow" | "degree" | "percent" | "factorial"):
            return False
        case Op(args=args):
            is_of_several = len(free_symbols(node)) > 1  # a^2 + b^2 may be asked for; x^2 = 5 is a condition
            return all(_is_label(part) or (is_of_several and _is_power_of_name(part)) for part in args)
        case SetOp(left=left, right=right):  # |A \\cup B|
            return _is_label(left) and _is_label(right)
        case Collection(items=items):
            return all(isinstance(item, Symbol) and _is_label(item) for item in items)
    return False


def _is_power_of_name(node: Node) -> bool:
    match node:
        case Op(name="pow", args=(base, Number(value=exponent))):
            return _is_label(base) and exponent != -1  # f^{-1} is a name
    return False


def _name(node: Node) -> str | None:
    """The one variable an equation or inequality is about."""
    if isinstance(node, Relation):
        for side in (node.sides[0], node.sides[-1]) if len(node.sides) == 2 else node.sides[:2]:
            if isinstance(side, Symbol) and _is_label(side):
                return side.name.casefold()
    return None


def _names_conflict(gold: Node, answer: Node) -> bool:
    first, second = _name(gold), _name(answer)
    if first is not None and second is not None:
        return first != second
    if not isinstance(gold, Relation) or not isinstance(answer, Relation):
        return False
    return _labels_conflict(gold.sides[0], answer.sides[0])


def _labels_conflict(gold: Node, answer: Node) -> bool:
    """Whether two left sides name different things: ``AB`` and ``AC``, ``\\tan x`` and ``\\cot x``.

    Different names of a function say nothing: ``f(x) = x + 1`` and ``g(x) = x + 1`` answer the same question.
    """
    first, second = (_unbarred(label) for label in (gold, answer))
    if isinstance(first, Op) and isinstance(second, Op):
        return not (_is_function_of_name(first) and _is_function_of_name(second)) and not same_scalar(first, second)
    pair = (first, second)
    is_computed = any(
        isinstance(label, Op) and (label.name in ("sqrt", "root", "abs") or f"\\{label.name}" in FUNCTIONS)
        for label in pair
    )
    return is_computed and any(isinstance(label, Symbol) for label in pair)


def _unbarred(label: Node) -> Node:
    return label.args[0] if isinstance(label, Op) and label.label == "bar" else label


def _is_function_of_name(label: Op) -> bool:
    match label:
        case Op(name="mul", args=(Symbol(), Symbol(name=name))):
            return name.islower()
    return False


def _is_near(value: Node, rounded: Node) -> bool:
    try:
        first, second = approximate(_bare(value), LOW, {}), approximate(_bare(rounded), LOW, {})
    except (Unreadable, ZeroDivisionError):
        return False
    return bool(abs(first - second) <= abs(first) / 100)


def _bare(node: Node) -> Node:
    return node.value if isinstance(node, Measured) else node


def _difference(relation: Relation) -> Op:
    return Op("add", (relation.sides[0], Op("neg", (relation.sides[1],))))


def _same_equation(gold: Relation, answer: Relation) -> bool:
    """One is the other times a constant: ``y = 2x + 1`` and ``4x - 2y + 2 = 0``."""
    if gold.ops != ("=",) or answer.ops != ("=",):
        return False
    return _constant_ratio(_difference(gold), _difference(answer)) is not None


def _same_inequality(gold: Node, answer: Node) -> bool:
    if not isinstance(gold, Relation) or not isinstance(answer, Relation) or len(gold.ops) + len(answer.ops) != 2:
        return False
    op, other = gold.ops[0], answer.ops[0]
    ratio = _constant_ratio(_difference(gold), _difference(answer))
    if ratio is None:
        return False
    flipped = {"<": ">", ">": "<", "<=": ">=", ">=": "<=", "!=": "!="}
    return op in flipped and other in flipped and (op if ratio > 0 else flipped[op]) == other


def _constant_ratio(gold: Node, answer: Node) -> Any:
    names = free_symbols(gold) | free_symbols(answer)  # what only one has must cancel: 0y
    if not free_symbols(gold) or not free_symbols(answer):
        return None
    ratio = None
    positive, signed = (_points(names, LOW, is_positive=is_positive) for is_positive in (True, False))
    for place, at in enumerate([*itertools.islice(positive, 4), *itertools.islice(signed, 4)]):
        try:
            first, second = approximate(gold, LOW, at), approximate(answer, LOW, at)
        except (Unreadable, ZeroDivisionError):
            return None
        if place >= 4 and (LOW.im(first) or LOW.im(second)):
            continue  # outside of what it is about
        if not first or not second:
            return None
        here = second / first
        if LOW.im(here) or (ratio is not None and abs(here - ratio) > abs(ratio) * _NEGLIGIBLE[LOW]):
            return None
        ratio = here
    return ratio


# -- sets, lists, tuples, intervals


def _same_sets(gold: Node, answer: Node) -> bool:
    if _names_conflict(gold, answer):
        return False
    if isinstance(gold, SetOp) and isinstance(answer, SetOp) and gold.name == answer.name:
        straight = _same(gold.left, answer.left) and _same(gold.right, answer.right)
        if straight or (gold.name != "setminus" and _same(gold.left, answer.right) and _same(gold.right, answer.left)):
            return True
    gold_region = region_of(gold)
    if gold_region is None:
        return False
    answer_region = region_of(answer)
    return answer_region is not None and same_region(gold_region, answer_region)


def _same_collections(gold: Collection, answer: Collection) -> bool:
    if any(_has_order(item) for item in (*gold.items, *answer.items)):
        return _same_ordered_items(gold, answer) or _same_sets(gold, answer)
    if gold.is_list and answer.is_list:
        return _same_lists(gold, answer)
    if answer.is_set and len(answer.items) == 1 and gold.opening not in ("", "{"):  # the solution set of one point
        return _same(gold, answer.items[0])
    if gold.is_set or answer.is_set:
        if gold.is_set and answer.is_set:
            return _same_bags(_distinct(gold.items), _distinct(answer.items))
        other = answer if gold.is_set else gold
        return other.is_list and _same_bags(gold.items, answer.items)
    if gold.is_list or answer.is_list:
        bracketed = answer if gold.is_list else gold
        is_plain = bracketed.opening + bracketed.closing == "()" or len(bracketed.items) > 2
        return is_plain and _same_rows(_unlabelled(gold.items), _unlabelled(answer.items))
    same_brackets = (gold.opening, gold.closing) == (answer.opening, answer.closing)
    is_vector = len(gold.items) > 2  # no interval, so the kind of bracket says nothing
    return (same_brackets or is_vector) and _same_rows(gold.items, answer.items)


def _same_lists(gold: Collection, answer: Collection) -> bool:
    if len(gold.items) != len(answer.items):
        return False
    gold_names, answer_names = [_name(item) for item in gold.items], [_name(item) for item in answer.items]
    if len(set(gold_names)) == len(gold_names) > 1 and set(gold_names) == set(answer_names) and None not in gold_names:
        by_name = dict(zip(answer_names, answer.items, strict=True))
        return all(_same(item, by_name[name]) for name, item in zip(gold_names, gold.items, strict=True))
    is_in_order = all(isinstance(item, Text) for item in gold.items)  # words are ranked, values are not
    is_in_order = is_in_order or any(isinstance(item, Ratio) for item in gold.items)
    rows = _unlabelled(gold.items), _unlabelled(answer.items)
    return _same_rows(*rows) if is_in_order else _same_bags(*rows)


def _same_ordered_items(gold: Collection, answer: Collection) -> bool:
    return gold.joiner == answer.joiner and _same_bags(gold.items, answer.items)


def _unlabelled(items: Sequence[Node]) -> list[Node]:
    """``x = 1, x = 2`` as 1 and 2; one that is an equation in its own right stays."""
    return [(_values(item) or [item])[0] for item in items]


def _distinct(items: Sequence[Node]) -> list[Node]:
    kept: list[Node] = []
    for item in items:
        if not any(_same(item, other) for other in kept):
            kept.append(item)
    return kept


def _same_rows(gold: Sequence[Node], answer: Sequence[Node]) -> bool:
    return len(gold) == len(answer) and all(_same(left, right) for left, right in zip(gold, answer, strict=True))


def _same_bags(gold: Sequence[Node], answer: Sequence[Node]) -> bool:
    if len(gold) != len(answer):
        return False
    left = list(answer)
    for item in gold:
        found = next((place for place, other in enumerate(left) if _same(item, other)), None)
        if found is None:
            return False
        left.pop(found)
    return True


def _same_single(gold: Node, answer: Node) -> bool:
    """A collection against something that is none."""
    collection, other = (gold, answer) if isinstance(gold, Collection) else (answer, gold)
    assert isinstance(collection, Collection)
    if collection.is_set and len(collection.items) == 1:
        return _same(collection.items[0], other) if collection is gold else _same(other, collection.items[0])
    match other:
        case Op(name="mul", args=(Symbol(name=name), Collection() as point)) if collection is gold and name.isupper():
            return not gold.is_list and _same(gold, point)  # P(1, 2): a point and its name
    letters = [item.name for item in collection.items if isinstance(item, Symbol) and len(item.name) == 1]
    if collection is gold and collection.is_list and len(letters) == len(collection.items) and isinstance(other, Op):
        typed = [part.name for part in other.args if isinstance(part, Symbol)]  # BE for B, E
        return other.name == "mul" and sorted(typed) == sorted(letters) and len(typed) == len(other.args)
    return False


def _same_matrices(gold: Node, answer: Node) -> bool:
    if isinstance(gold, Matrix) and isinstance(answer, Matrix):
        shapes = [(len(matrix.rows), len(matrix.rows[0])) for matrix in (gold, answer)]
        return shapes[0] == shapes[1] and all(map(_same_rows, gold.rows, answer.rows))
    matrix, other = (gold, answer) if isinstance(gold, Matrix) else (answer, gold)
    assert isinstance(matrix, Matrix)
    if matrix is gold and other == Number(Fraction(0)):
        return all(entry == other for row in matrix.rows for entry in row)
    if matrix is gold and other == Symbol("I"):
        places = range(len(matrix.rows))
        return all(_same_rows(matrix.rows[i], [Number(Fraction(i == j)) for j in places]) for i in places)
    if isinstance(other, Op) and other.name == "binomial" and matrix is gold:  # a column of two is often typed so
        other = Matrix(tuple((part,) for part in other.args))
        return _same_matrices(gold, other)
    if not isinstance(other, Collection) or other.is_set or (other.is_list and matrix is answer):
        return False
    if len(matrix.rows) != 1 and len(matrix.rows[0]) != 1:
        return False
    entries = [entry for row in matrix.rows for entry in row]
    return _same_rows(entries, other.items) if matrix is gold else _same_rows(other.items, entries)


# -- units, ratios, bases


def _same_measured(gold: Node, answer: Node) -> bool:
    if isinstance(gold, Measured) and isinstance(answer, Measured):
        angles = [_in_radians(side) for side in (gold, answer)]
        if angles[0] is not None and angles[1] is not None and gold.unit != answer.unit:
            return same_scalar(angles[0], angles[1])
        factor = same_unit_factor(gold.unit, answer.unit)
        if factor is None:
            return False
        if factor == 1:
            return _same(gold.value, answer.value)
        return _is_scalar(gold.value) and _same(gold.value, Op("mul", (Number(factor), answer.value)))
    if isinstance(_bare(gold), Ratio) is not isinstance(_bare(answer), Ratio):
        return False
    if isinstance(gold, Measured):
        return _same(gold.value, answer) or _same_converted(answer, gold, is_gold=True)
    assert isinstance(answer, Measured)
    if (modulus := _MODULUS.fullmatch(answer.unit)) is not None:
        value = exact(gold) if _is_scalar(gold) else None
        return value is not None and value < int(modulus[1]) and _same(gold, answer.value)
    if answer.unit == "%" and not (isinstance(gold, Number) and abs(gold.value) > 1):
        return _same_converted(gold, answer, is_gold=False)
    if answer.unit == "degree" and any(part == Symbol("\\pi") for part in walk(gold)):
        return _same_converted(gold, answer, is_gold=False)
    return _same(gold, answer.value) or _same_converted(gold, answer, is_gold=False)


def _in_radians(node: Measured) -> Node | None:
    if not _is_scalar(node.value):
        return None
    unit = canonical(node.unit)
    if unit == (("degree", 1),):
        return Op("degree", (node.value,))
    return node.value if unit == (("radian", 1),) else None


def _same_converted(bare: Node, measured: Measured, *, is_gold: bool) -> bool:
    """A pure number against percent (of one) or degrees (in radians)."""
    name = {"%": "percent", "degree": "degree"}.get(measured.unit)
    if name is None or not _is_scalar(bare) or not _is_scalar(measured.value):
        return False
    plain = Op("div", (measured.value, Number(Fraction(100)))) if name == "percent" else Op("degree", (measured.value,))
    return same_scalar(plain, bare) if is_gold else same_scalar(bare, plain)


def _is_scalar(node: Node) -> bool:
    return isinstance(node, Number | Symbol | Op)


def _is_clock(ratio: Ratio) -> bool:
    return len(ratio.texts) == 2 and all(map(str.isdecimal, ratio.texts)) and len(ratio.texts[1]) == 2


def _same_ratios(gold: Node, answer: Node) -> bool:
    if isinstance(gold, Ratio) and isinstance(answer, Ratio):
        if len(gold.parts) != len(answer.parts):
            return False
        if _is_clock(gold):
            return _same_rows(gold.parts, answer.parts)
        return all(
            same_scalar(Op("mul", (gold.parts[0], other)), Op("mul", (answer.parts[0], part)))
            for part, other in zip(gold.parts[1:], answer.parts[1:], strict=True)
        )
    ratio, other = (gold, answer) if isinstance(gold, Ratio) else (answer, gold)
    assert isinstance(ratio, Ratio)
    if len(ratio.parts) != 2 or not _is_scalar(other):
        return False
    quotient = Op("div", (ratio.parts[0], ratio.parts[1]))
    if ratio is gold and _is_clock(ratio):
        return other == quotient
    return same_scalar(quotient, other)


def _same_based(gold: Node, answer: Node) -> bool:
    """A number in a base is its digits: 10 is not an answer to "1010 in base two"; a base left out is."""
    if isinstance(gold, Based) and isinstance(answer, Based):
        return gold.base == answer.base and gold.digits.lstrip("0") == answer.digits.lstrip("0")
    if isinstance(gold, Based):
        is_plain = isinstance(answer, Number) and answer.value.denominator == 1
        return is_plain and gold.digits.lstrip("0") == str(answer.value)  # type: ignore[union-attr]
    assert isinstance(answer, Based)
    return answer.base == 10 and answer.digits.isdecimal() and same_scalar(gold, Number(Fraction(int(answer.digits))))


# ------------------------------------------------------------------------------------------------ scalars


def same_scalar(gold: Node, answer: Node) -> bool:
    """Equality of two numbers or expressions, by value.

    Exact where both are rational. Else by 60 digits and, where these agree, by 200; expressions at fixed points of
    all their variables, positive ones and, where both are real there, others.
    """
    if not _is_scalar(gold) or not _is_scalar(answer):
        return False
    if gold == answer:
        return True
    try:
        first, second = exact(gold), exact(answer)
    except ZeroDivisionError:
        return False
    if first is not None and second is not None:
        return first == second or _rounds_to(gold, answer)
    names = free_symbols(gold) | free_symbols(answer)
    if (first is None) != (second is None) and not names and _rounds_to(gold, answer):
        return True
    bases = (0, 10) if any(_is_bare_log(part) for side in (gold, answer) for part in walk(side)) else (0,)
    return any(_same_value(gold, answer, names, base) for base in bases)


def _is_bare_log(node: Node) -> bool:
    return isinstance(node, Op) and node.name == "log" and len(node.args) == 1


def _rounds_to(gold: Node, answer: Node) -> bool:
    """A decimal gold stands for an exact answer that it rounds; never the other way about."""
    sign = 1
    if isinstance(gold, Op) and gold.name == "neg":
        gold, sign = gold.args[0], -1
    if not isinstance(gold, Number) or gold.decimals is None:
        return False
    digits = len(str(abs(gold.value * 10**gold.decimals).numerator).lstrip("0"))
    if digits < MIN_ROUNDED_DIGITS or any(isinstance(part, Number) and part.decimals for part in walk(answer)):
        return False
    try:
        value = approximate(answer, LOW, {})
        distance = abs(value - sign * approximate(gold, LOW, {}))
    except (Unreadable, ZeroDivisionError):
        return False
    return bool(distance <= LOW.mpf(10) ** -gold.decimals / 2)


def _same_value(gold: Node, answer: Node, names: set[str], log_base: int) -> bool:
    if (
        "i" in {part.name for side in (gold, answer) for part in walk(side) if isinstance(part, Symbol)}
        and "j" in names
    ):
        names = names | {"i"}  # beside j it is a basis vector or an index
    if not names:
        return _close(gold, answer, LOW, {}, log_base) is True and _close(gold, answer, HIGH, {}, log_base) is True
    if any(_has_signed_power(part) for side in (gold, answer) for part in walk(side)):
        return all(_close(gold, answer, LOW, at, log_base) is True for at in _integer_points(names))
    agreements = 0
    for at in itertools.islice(_points(names, LOW, is_positive=True), 7):
        close = _close(gold, answer, LOW, at, log_base)
        if close is False:
            return False
        agreements += close is True
        if agreements == 3:
            break
    if not agreements:
        return False
    return all(
        _close(gold, answer, LOW, at, log_base, is_real=True) is not False
        for at in itertools.islice(_points(names, LOW, is_positive=False), 4)
    )


def _close(
    gold: Node, answer: Node, mp: Any, at: dict[str, Any], log_base: int, *, is_real: bool = False
) -> bool | None:
    """Whether two values agree to nearly all digits; None where one has none there."""
    try:
        first = approximate(gold, mp, at, log_base)
        second = approximate(answer, mp, at, log_base)
    except ZeroDivisionError:
        return None
    except TooComplex:
        raise
    except Unreadable:
        return False
    if is_real and (mp.im(first) or mp.im(second)):
        return None
    size = max(abs(first), abs(second))
    if size > 1e-20 or (mp is HIGH and 0 < size < 1e-205):  # below what cancelling leaves: a small number, not a zero
        return bool(abs(first - second) <= _NEGLIGIBLE[mp] * size)
    return bool(size <= _NEGLIGIBLE[mp])


def _points(names: set[str], mp: Any, *, is_positive: bool) -> Iterator[dict[str, Any]]:
    """Fixed values without a pattern for all variables: between 0.3 and 2.3, or of either sign."""
    ordered = sorted(names)
    for trial in itertools.count():
        values = {}
        for place, name in enumerate(ordered):
            fraction = mp.frac(mp.sqrt(2 + 3 * place + 5 * trial) * mp.e)
            values[name] = fraction * 2 + mp.mpf(3) / 10
            if not is_positive and (trial + place) % 2 == 0:
                values[name] = -values[name]
        yield values


def _has_signed_power(node: Node) -> bool:
    """``(-1)^n``: meant for integers only."""
    if not isinstance(node, Op) or node.name != "pow" or not free_symbols(node.args[1]):
        return False
    base = exact(node.args[0]) if not free_symbols(node.args[0]) else None
    return base is not None and base < 0


def _integer_points(names: set[str]) -> Iterator[dict[str, Any]]:
    ordered = sorted(names)
    for trial in range(6):
        yield {name: LOW.mpf(3 + trial + (place * (trial + 2)) % 7) for place, name in enumerate(ordered)}


# ------------------------------------------------------------------------------------------------ beyond our grammar

_BEYOND_GRAMMAR = re.compile(r"\\(?:sum|prod|int|lim|partial|det|begin\s*\{(?:cases|vmatrix)\})(?![a-zA-Z])")
_LONG_NUMBER = re.compile(r"\d{12}|\^\s*\{?\s*\d{4}|\^[^^]*\^[^^]*\^|!")


def _is_beyond_grammar(text: str) -> bool:
    return bool(_BEYOND_GRAMMAR.search(text)) and len(text) < 300 and not _LONG_NUMBER.search(text)


def _ask_math_verify(gold: str, answer: str) -> Comparison:
    """Sums, integrals and the like, by math-verify; its plain-expression parser, which evaluates text, is left out."""
    import math_verify

    logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns of the limits that are ours to set
    config = [math_verify.LatexExtractionConfig(boxed_match_priority=0)]
    trees = [
        math_verify.parse(f"\\boxed{{{text}}}", config, fallback_mode="no_fallback", parsing_timeout=None)
        for text in (gold, answer)
    ]
    if not all(trees):
        return Comparison.UNREADABLE
    return _outcome(bool(math_verify.verify(*trees, timeout_seconds=None)))
