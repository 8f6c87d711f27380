"""What an answer can be once it is understood: a small tree of plain values.

Made by :mod:`nemo_acereason.rewards.math_parse`, given numbers by :mod:`nemo_acereason.rewards.math_value`, compared
by :mod:`nemo_acereason.rewards.math_equal`. Nothing here computes or simplifies.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction


class Unreadable(Exception):
    """The text is not of the grammar."""


class TooComplex(Unreadable):
    """It may be of the grammar, but is longer, deeper or larger in magnitude than an answer may be."""


@dataclass(frozen=True, slots=True)
class Number:
    """An exact rational; ``12.50`` is 25/2 with two decimals."""

    value: Fraction
    decimals: int | None = field(default=None, compare=False)
    """Digits behind the point of a finite decimal literal; None for everything else. Plays no part in equality."""


@dataclass(frozen=True, slots=True)
class Symbol:
    """A variable or a named constant: ``x``, ``\\alpha``, ``a_1``, ``\\pi``, ``e``, ``i``, ``\\infty``."""

    name: str


@dataclass(frozen=True, slots=True)
class Op:
    """An operation or function: ``add``, ``mul``, ``pow``, ``neg``, ``div``, ``sin``, ``degree``, ``call``, ..."""

    name: str
    args: tuple[Node, ...]
    label: str = ""
    """The function's own name where ``name`` is ``call``."""


@dataclass(frozen=True, slots=True)
class Choice:
    """Two signed variants of one scalar: ``1 \\pm \\sqrt 2``."""

    values: tuple[Node, Node]


@dataclass(frozen=True, slots=True)
class Based:
    """Digits in a stated base: ``1204_9``."""

    digits: str
    base: int


@dataclass(frozen=True, slots=True)
class Ratio:
    """``3:1``, or a time of day ``9:24``."""

    parts: tuple[Node, ...]
    texts: tuple[str, ...] = field(compare=False)


@dataclass(frozen=True, slots=True)
class Measured:
    """A value with a unit, ``\\%`` and degrees among them."""

    value: Node
    unit: str


@dataclass(frozen=True, slots=True)
class Collection:
    """Several values between ``opening`` and ``closing``; both empty for a bare list, whose order means nothing.

    ``(1,2)`` may be a point or an open interval: the other side of the comparison decides.
    """

    items: tuple[Node, ...]
    opening: str = ""
    closing: str = ""
    joiner: str = ","
    """What stood between them: ``,``, ``;``, ``and``, ``or``."""

    @property
    def is_list(self) -> bool:
        return not self.opening

    @property
    def is_set(self) -> bool:
        return self.opening == "{"

    @property
    def is_interval_shaped(self) -> bool:
        return len(self.items) == 2 and self.opening in ("(", "[", "]") and self.closing in (")", "]", "[")


@dataclass(frozen=True, slots=True)
class SetOp:
    """``cup``, ``cap`` or ``setminus`` of two sets."""

    name: str
    left: Node
    right: Node


@dataclass(frozen=True, slots=True)
class Matrix:
    """Rows of equal length."""

    rows: tuple[tuple[Node, ...], ...]


@dataclass(frozen=True, slots=True)
class Relation:
    """A chain ``sides[0] ops[0] sides[1] ops[1] ...`` of ``=``, ``<``, ``<=``, ``>``, ``>=``, ``!=``, ``in``, ``~``."""

    sides: tuple[Node, ...]
    ops: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Text:
    """Words, folded to lower case and single blanks."""

    words: str


Node = Number | Symbol | Op | Choice | Based | Ratio | Measured | Collection | SetOp | Matrix | Relation | Text

CONSTANTS = frozenset({"\\pi", "e", "i"})
INFINITY = Symbol("\\infty")
REALS = Symbol("\\mathbb{R}")
EMPTY_SET = Symbol("\\emptyset")


def walk(node: Node) -> Iterator[Node]:
    """The node and everything in it."""
    stack = [node]
    while stack:
        node = stack.pop()
        yield node
        match node:
            case Op(args=inner) | Ratio(parts=inner) | Collection(items=inner) | Relation(sides=inner):
                stack.extend(inner)
            case Choice(values=pair):
                stack.extend(pair)
            case Measured(value=value):
                stack.append(value)
            case SetOp(left=left, right=right):
                stack += [left, right]
            case Matrix(rows=rows):
                stack.extend(entry for row in rows for entry in row)
            case _:
                pass


def free_symbols(node: Node) -> set[str]:
    """Names of the variables in it; constants and infinity are none."""
    names = {part.name for part in walk(node) if isinstance(part, Symbol)}
    return names - CONSTANTS - {INFINITY.name, REALS.name, EMPTY_SET.name}
