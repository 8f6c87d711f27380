"""Give trees of :mod:`nemo_acereason.rewards.math_tree` their numbers: exactly where rational, else to many digits.

Never larger than a stated magnitude: a power is refused by the size of its result before it is computed. Uses
mpmath's arithmetic on our own tree; no text is ever evaluated.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

import mpmath  # type: ignore[import-untyped]

from nemo_acereason.rewards.math_tree import Node, Number, Op, Symbol, TooComplex, Unreadable

MAX_BITS = 200_000
"""Of an exact integer or a numerator: 60,000 decimal digits, 2^{4181} and 1000! with room to spare."""
MAX_EXACT_FACTORIAL = 10_000


def context(digits: int) -> Any:
    """An arithmetic of ``digits`` decimal digits of its own, so that no thread changes another's precision."""
    made = mpmath.MPContext()
    made.dps = digits
    return made


LOW = context(60)
HIGH = context(200)


_EXACT = frozenset(("add", "mul", "neg", "div", "pow", "factorial", "binomial", "abs", "floor", "ceil", "sqrt", "root"))


def exact(node: Node) -> Fraction | None:
    """Its rational value, or None where it is not plainly rational.

    Raises:
        TooComplex: the value needs more than ``MAX_BITS``.
        ZeroDivisionError: it divides by zero.
    """
    if isinstance(node, Number):
        return node.value
    if not isinstance(node, Op):
        return None
    if node.name not in _EXACT:
        return None
    known: list[Fraction] = []
    for argument in node.args:
        value = exact(argument)
        if value is None:
            return None
        known.append(value)
    return _sized(_exact_op(node.name, known))


def _sized(value: Fraction | None) -> Fraction | None:
    if value is not None and max(value.numerator.bit_length(), value.denominator.bit_length()) > MAX_BITS:
        raise TooComplex("a number of too many digits")
    return value


def _exact_op(name: str, values: list[Fraction]) -> Fraction | None:
    first = values[0]
    match name:
        case "add":
            return sum(values[1:], first)
        case "mul":
            for value in values[1:]:
                first = _sized(first * value) or Fraction(0)
            return first
        case "neg":
            return -first
        case "div":
            return first / values[1]
        case "abs":
            return abs(first)
        case "floor":
            return Fraction(math.floor(first))
        case "ceil":
            return Fraction(math.ceil(first))
        case "pow":
            return _exact_power(first, values[1])
        case "sqrt":
            return _exact_root(first, 2)
        case "root":
            return _exact_root(first, int(values[1])) if values[1].denominator == 1 else None
        case "factorial":
            if first.denominator != 1 or first < 0:
                return None
            if first > MAX_EXACT_FACTORIAL:
                raise TooComplex("a factorial of too many digits")
            return Fraction(math.factorial(int(first)))
        case "binomial":
            if any(value.denominator != 1 or value < 0 for value in values):
                return None
            if first > MAX_EXACT_FACTORIAL:
                raise TooComplex("a binomial coefficient of too many digits")
            return Fraction(math.comb(int(first), int(values[1])))
        case _:
            raise AssertionError(name)


def _exact_power(base: Fraction, exponent: Fraction) -> Fraction | None:
    if exponent.denominator != 1:
        if exponent.denominator > 64:
            return None
        root = _exact_root(base, exponent.denominator) if base >= 0 else None
        return None if root is None else _exact_power(root, Fraction(exponent.numerator))
    if base in (0, 1, -1):
        if base == 0 and exponent <= 0:
            raise ZeroDivisionError
        return base if base >= 0 or exponent % 2 else -base
    bits = max(base.numerator.bit_length(), base.denominator.bit_length())
    if abs(exponent) * max(bits - 1, 1) > MAX_BITS:
        raise TooComplex("a power of too many digits")
    return base ** int(exponent)


def _exact_root(value: Fraction, degree: int) -> Fraction | None:
    if degree < 1 or degree > 64 or (value < 0 and degree % 2 == 0):
        return None
    if value < 0:  # the real root of an odd degree, as school books have it
        root = _exact_root(-value, degree)
        return None if root is None else -root
    top, bottom = _integer_root(value.numerator, degree), _integer_root(value.denominator, degree)
    return None if top is None or bottom is None else Fraction(top, bottom)


def _integer_root(value: int, degree: int) -> int | None:
    if degree == 2:
        root = math.isqrt(value)
        return root if root * root == value else None
    if value.bit_length() > 4096:
        return None
    root = round(float(value) ** (1.0 / degree)) if value.bit_length() < 900 else 1 << (value.bit_length() // degree)
    if value.bit_length() >= 900:
        low, high = 0, 1 << (value.bit_length() // degree + 1)
        while low < high:
            middle = (low + high) // 2
            if middle**degree < value:
                low = middle + 1
            else:
                high = middle
        root = low
    return next((near for near in (root - 1, root, root + 1) if near >= 0 and near**degree == value), None)


def approximate(node: Node, mp: Any, at: Mapping[str, Any], log_base: int = 0) -> Any:
    """Its value in the arithmetic ``mp``, real or complex.

    Args:
        at: values of the variables.
        log_base: base of a bare ``\\log``; 0: e.

    Raises:
        Unreadable: it has no value (a matrix, infinity, an unknown function).
        TooComplex: larger than ``2 ** MAX_BITS`` in magnitude.
        ZeroDivisionError: a pole.
    """
    match node:
        case Number(value=value):
            return mp.mpf(value.numerator) / value.denominator
        case Symbol(name=name):
            return _symbol(name, mp, at)
        case Op(name="call", label=label, args=args):
            return _unknown_function(label, [approximate(argument, mp, at, log_base) for argument in args], mp)
        case Op(name=name, args=args):
            values = [approximate(argument, mp, at, log_base) for argument in args]
            function = _FUNCTIONS.get(name)
            if function is None:
                raise Unreadable(f"no number for {name}")
            if name == "log" and len(values) == 1 and log_base:
                values.append(mp.mpf(log_base))
            result = function(mp, *values)
            _check_size(result, mp)
            return result
        case _:
            raise Unreadable("not a number")


def _symbol(name: str, mp: Any, at: Mapping[str, Any]) -> Any:
    if name in at:
        return at[name]
    if name == "\\pi":
        return +mp.pi
    if name == "e":
        return +mp.e
    if name == "i":
        return mp.mpc(0, 1)
    raise Unreadable(f"no value for {name}")


def _unknown_function(label: str, values: list[Any], mp: Any) -> Any:
    """Any fixed smooth function would do; it differs by name and is the same on both sides."""
    seed = sum(ord(letter) * 31**place for place, letter in enumerate(label)) % 1009
    total = mp.mpf(seed) / 1009
    for place, value in enumerate(values):
        total += mp.sin(value * (place + 2)) + value / (place + 3)
    return total


def _check_size(value: Any, mp: Any) -> None:
    for part in (mp.re(value), mp.im(value)):
        if not mp.isfinite(part):
            raise ZeroDivisionError
        if part and mp.mag(part) > MAX_BITS:
            raise TooComplex("a number of too great magnitude")


def _power(mp: Any, base: Any, exponent: Any) -> Any:
    if base == 0:
        if mp.re(exponent) <= 0:
            raise ZeroDivisionError
        return mp.zero
    if abs(exponent) * (abs(mp.mag(base)) + 1) > MAX_BITS:
        raise TooComplex("a power of too great magnitude")
    return mp.power(base, exponent)


def _root(mp: Any, value: Any, degree: Any) -> Any:
    if mp.im(value) == 0 and mp.re(value) < 0 and mp.im(degree) == 0 and mp.isint(degree) and int(mp.re(degree)) % 2:
        return -mp.power(-mp.re(value), 1 / degree)  # the real root
    return _power(mp, value, 1 / degree)


def _log(mp: Any, value: Any, base: Any = None) -> Any:
    if value == 0 or base == 1 or base == 0:
        raise ZeroDivisionError
    return mp.ln(value) if base is None else mp.ln(value) / mp.ln(base)


def _exp(mp: Any, value: Any) -> Any:
    if abs(value) > MAX_BITS // 2:
        raise TooComplex("an exponential of too great magnitude")
    return mp.exp(value)


def _factorial(mp: Any, value: Any) -> Any:
    if abs(value) > 10_000:
        raise TooComplex("a factorial of too great magnitude")
    try:
        return mp.gamma(value + 1)
    except ValueError:
        raise ZeroDivisionError from None


def _binomial(mp: Any, top: Any, bottom: Any) -> Any:
    return _factorial(mp, top) / (_factorial(mp, bottom) * _factorial(mp, top - bottom))


def _sum(mp: Any, *values: Any) -> Any:
    return mp.fsum(values) if all(mp.im(value) == 0 for value in values) else sum(values[1:], values[0])


def _product(_: Any, *values: Any) -> Any:
    result = values[0]
    for value in values[1:]:
        result = result * value
    return result


def _bounded(name: str) -> Callable[..., Any]:
    """A function of mpmath whose argument must stay where its digits still mean something."""

    def function(mp: Any, value: Any) -> Any:
        if abs(mp.mag(value)) > 100 and value != 0:
            raise TooComplex(f"an argument of {name} of too great or small magnitude")
        try:
            return getattr(mp, name)(value)
        except ValueError:
            raise ZeroDivisionError from None

    return function


def _floor(mp: Any, value: Any) -> Any:
    return mp.floor(mp.re(value))


def _ceil(mp: Any, value: Any) -> Any:
    return mp.ceil(mp.re(value))


_TRIGONOMETRIC = (
    *("sin", "cos", "tan", "sec", "csc", "cot", "asin", "acos", "atan", "asec", "acsc", "acot"),
    *("sinh", "cosh", "tanh", "sech", "csch", "coth", "asinh", "acosh", "atanh"),
)
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "add": _sum,
    "mul": _product,
    "neg": lambda _, value: -value,
    "div": lambda _, top, bottom: top / bottom,
    "pow": _power,
    "sqrt": lambda mp, value: mp.sqrt(value),
    "root": _root,
    "log": _log,
    "ln": _log,
    "exp": _exp,
    "abs": lambda _, value: abs(value),
    "floor": _floor,
    "ceil": _ceil,
    "factorial": _factorial,
    "binomial": _binomial,
    "degree": lambda mp, value: value * mp.pi / 180,
    "percent": lambda _, value: value / 100,
    **{name: _bounded(name) for name in _TRIGONOMETRIC},
}
FUNCTION_NAMES = frozenset(_FUNCTIONS)
