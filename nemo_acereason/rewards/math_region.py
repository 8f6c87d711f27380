"""Subsets of the real line: intervals, unions, inequalities and excluded points brought to one form.

A region is a sorted tuple of disjoint pieces. Ends are numbers of many digits; regions with symbols in their ends have
no such form here.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from nemo_acereason.rewards.math_tree import (
    EMPTY_SET,
    INFINITY,
    REALS,
    Collection,
    Node,
    Number,
    Op,
    Relation,
    SetOp,
    Symbol,
    Unreadable,
    free_symbols,
)
from nemo_acereason.rewards.math_value import LOW, approximate

_NEAR = LOW.mpf(10) ** -30


class Piece(NamedTuple):
    """One interval; a point has both ends closed and equal."""

    low: Any
    has_low: bool
    high: Any
    has_high: bool


Region = tuple[Piece, ...]
_ALL: Region = (Piece(-LOW.inf, False, LOW.inf, False),)


def region_of(node: Node) -> Region | None:
    """The set of reals that a node describes, or None where it describes none that can be written so."""
    try:
        return _region(node)
    except (Unreadable, ZeroDivisionError):
        return None


def same_region(first: Region, second: Region) -> bool:
    """Equal ends and brackets, piece by piece."""
    return len(first) == len(second) and all(
        a.has_low == b.has_low and a.has_high == b.has_high and _equal(a.low, b.low) and _equal(a.high, b.high)
        for a, b in zip(first, second, strict=True)
    )


def _equal(first: Any, second: Any) -> bool:
    if first == second:
        return True
    if not LOW.isfinite(first) or not LOW.isfinite(second):
        return False
    return bool(abs(first - second) <= _NEAR * max(1, abs(first)))


def _region(node: Node) -> Region | None:
    match node:
        case Symbol() if node == REALS:
            return _ALL
        case Symbol() if node == EMPTY_SET:
            return ()
        case SetOp(name=name, left=left, right=right):
            first, second = _region(left), _region(right)
            if first is None or second is None:
                return None
            if name == "cup":
                return _union(first + second)
            return _intersection(first, second if name == "cap" else _complement(second))
        case Relation():
            return _of_relation(node)
        case Collection() if node.is_interval_shaped:
            return _interval(node)
        case Collection() if node.is_set or node.is_list:
            return _of_items(node)
        case _:
            return None


def _interval(node: Collection) -> Region | None:
    low, high = _end(node.items[0]), _end(node.items[1])
    has_low, has_high = node.opening == "[" and low != -LOW.inf, node.closing == "]" and high != LOW.inf
    if low > high or (low == high and not (has_low and has_high)):
        return None
    return (Piece(low, has_low, high, has_high),)


def _end(node: Node) -> Any:
    if node == INFINITY:
        return LOW.inf
    if node == Op("neg", (INFINITY,)):
        return -LOW.inf
    value = approximate(node, LOW, {})
    if LOW.im(value):
        raise Unreadable("a complex end")
    return LOW.re(value)


def _of_items(node: Collection) -> Region | None:
    names = {name for item in node.items if isinstance(item, Relation) for name in free_symbols(item)}
    if len(names) > 1:
        return None
    regions = []
    for item in node.items:
        if isinstance(item, Relation):
            regions.append(_region(item))
        elif node.is_set:
            value = _end(item)
            regions.append((Piece(value, True, value, True),))
        else:
            regions.append(_region(item) if not isinstance(item, Number) else None)
    known = [region for region in regions if region is not None]
    if len(known) < len(regions):
        return None
    if node.joiner == "or" or node.is_set:
        return _union(tuple(piece for region in known for piece in region))
    both = known[0]
    for region in known[1:]:
        both = _intersection(both, region)
    if node.joiner == "," and not both:  # "x < 1, x > 2" can only mean either
        return _union(tuple(piece for region in known for piece in region))
    return both


def _of_relation(node: Relation) -> Region | None:
    if node.ops == ("in",):
        return _region(node.sides[1]) if isinstance(node.sides[0], Symbol) else None
    if node.ops == ("=",):
        return None
    region = _ALL
    for left, op, right in zip(node.sides, node.ops, node.sides[1:], strict=False):
        half = _half_line(left, op, right)
        if half is None:
            return None
        region = _intersection(region, half)
    return region


def _half_line(left: Node, op: str, right: Node) -> Region | None:
    """Where ``left op right`` holds, for an expression linear in its one variable."""
    if op not in ("<", "<=", ">", ">=", "!="):
        return None
    if INFINITY in (left, right) or Op("neg", (INFINITY,)) in (left, right):
        return _ALL
    names = free_symbols(left) | free_symbols(right)
    if len(names) != 1:
        return None
    if isinstance(right, Op) and right.name == "abs":
        left, op, right = right, op.translate(str.maketrans("<>", "><")), left
    if isinstance(left, Op) and left.name == "abs":
        return _of_absolute(left.args[0], op, right)
    difference = Op("add", (left, Op("neg", (right,))))
    (name,) = names
    points = [LOW.mpf(point) for point in ("-97.3", "-1.7", "0.4", "53.9")]
    values = [approximate(difference, LOW, {name: point}) for point in points]
    slope = (values[1] - values[0]) / (points[1] - points[0])
    if not slope or LOW.im(slope):
        return None
    for point, value in zip(points, values, strict=True):
        if abs(values[0] + slope * (point - points[0]) - value) > _NEAR * (1 + abs(value)):
            return None
    root = points[0] - values[0] / slope
    if isinstance(left, Symbol) or isinstance(right, Symbol):
        root = _end(right if isinstance(left, Symbol) else left)  # as written, without rounding
    if op == "!=":
        return _complement((Piece(root, True, root, True),))
    is_below = op.startswith("<") == (slope > 0)
    is_closed = op.endswith("=")
    return (Piece(-LOW.inf, False, root, is_closed),) if is_below else (Piece(root, is_closed, LOW.inf, False),)


def _of_absolute(inside: Node, op: str, bound: Node) -> Region | None:
    """``|inside| op bound`` for a positive bound."""
    if free_symbols(bound) or _end(bound) <= 0 or op == "!=":
        return None
    above = _half_line(inside, op, bound)
    below = _half_line(Op("neg", (inside,)), op, bound)
    if above is None or below is None:
        return None
    return _union(above + below) if op.startswith(">") else _intersection(above, below)


def _union(pieces: Region) -> Region:
    merged: list[Piece] = []
    for piece in sorted(pieces, key=lambda piece: (piece.low, not piece.has_low)):
        if merged and _touches(merged[-1], piece):
            last = merged.pop()
            if _equal(last.high, piece.high):
                piece = Piece(last.low, last.has_low, last.high, last.has_high or piece.has_high)
            else:
                end = piece if piece.high > last.high else last
                piece = Piece(last.low, last.has_low, end.high, end.has_high)
        merged.append(piece)
    return tuple(merged)


def _touches(first: Piece, second: Piece) -> bool:
    if _equal(first.high, second.low):
        return first.has_high or second.has_low
    return bool(second.low < first.high)


def _complement(region: Region) -> Region:
    gaps: list[Piece] = []
    low, has_low = -LOW.inf, False
    for piece in region:
        if low < piece.low or (low == piece.low and has_low and not piece.has_low):
            gaps.append(Piece(low, has_low, piece.low, not piece.has_low and piece.low != -LOW.inf))
        low, has_low = piece.high, not piece.has_high
    if low < LOW.inf:
        gaps.append(Piece(low, has_low, LOW.inf, False))
    return tuple(gaps)


def _intersection(first: Region, second: Region) -> Region:
    return _complement(_union(_complement(first) + _complement(second)))
