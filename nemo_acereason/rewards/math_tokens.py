"""Cut a cleaned answer into tokens, and give number literals their exact values.

Knows LaTeX commands and the plain words people type for them; knows no grammar.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from fractions import Fraction

from nemo_acereason.rewards.math_tree import Number, TooComplex, Unreadable
from nemo_acereason.rewards.math_value import FUNCTION_NAMES

MAX_TOKENS = 1200
MAX_DIGITS = 2000
"""Of one number literal."""


@dataclass(frozen=True, slots=True)
class Token:
    """One token: ``kind`` is num, rep, dots, sci, cmd, let, text, sym or end."""

    kind: str
    text: str
    is_spaced: bool = False
    """White space stands before it."""

    @property
    def is_mark(self) -> bool:
        """A command or a character that is neither digit nor letter."""
        return self.kind in ("sym", "cmd")


_TOKEN = re.compile(
    r"(?P<space>(?:\s|\\[,;: ]|\\q?quad(?![a-zA-Z])|~)+)"
    r"|\\text\{(?P<text>[^{}]*(?:\{[^{}]*\}[^{}]*)*)\}"
    r"|(?P<rep>\d*\.\d*(?:\\(?:overline|bar)\s*\{\s*\d+\s*\}|\\(?:overline|bar)\s*\d"
    r"|\\dot\s*\{?\d\}?(?:\d*\\dot\s*\{?\d\}?)?|\(\d+\)))"
    r"|(?P<dots>\d*\.\d+\s*(?:\\[lcd]?dots|\.\.\.+))"
    r"|(?P<big>\d{1,3}(?:(?:\{,\}|\\[,;: ]|~)\d{3})+(?!\d)(?:\.\d+)?)"
    r"|(?P<comma>\d{1,3}(?:,\d{3})+(?!\d)(?:\.\d+)?)"
    r"|(?P<eur>\d+\{,\}\d+)"
    r"|(?P<sci>(?:\d+(?:\.\d+)?|\.\d+)(?:E[+-]?\d+|e\d+(?![\d.a-zA-Z])))"
    r"|(?P<num>\d+(?:\.\d+)?|\.\d+)"
    r"|(?P<cmd>\\(?:[a-zA-Z]+|[{}|\\%&#_]))"
    r"|(?P<word>[A-Za-z]+)"
    r"|(?P<run><=|>=|==|!=|\*\*|\.\.\.)"
    r"|(?P<sym>.)",
    re.DOTALL,
)
_SIGNED_SCI = re.compile(r"(?:\d+(?:\.\d+)?|\.\d+)e[+-]\d+")
PLAIN_WORDS = {
    "pi": "\\pi",
    "inf": "\\infty",
    "infty": "\\infty",
    "infinity": "\\infty",
    "sqrt": "\\sqrt",
    "cbrt": "\\cbrt",
    "union": "\\cup",
    "cup": "\\cup",
    "theta": "\\theta",
    "alpha": "\\alpha",
    "beta": "\\beta",
    "deg": "\\degree",
    "degree": "\\degree",
    "degrees": "\\degree",
    "frac": "\\frac",
    "times": "\\times",
    "cdot": "\\cdot",
    "percent": "\\%",
    "to": ":",
    "in": "\\in",
}
_ALIASES = {
    **dict.fromkeys(("\\dfrac", "\\tfrac", "\\cfrac", "\\nicefrac", "\\sfrac", "\\flatfrac"), "\\frac"),
    **dict.fromkeys(("\\leq", "\\leqslant", "\\leqq"), "\\le"),
    **dict.fromkeys(("\\geq", "\\geqslant", "\\geqq"), "\\ge"),
    **dict.fromkeys(("\\dbinom", "\\tbinom"), "\\binom"),
    **dict.fromkeys(("\\lvert", "\\rvert", "\\vert", "\\mid"), "|"),
    **dict.fromkeys(("\\|", "\\lVert", "\\rVert", "\\Vert"), "\\norm"),
    **dict.fromkeys(("\\ast", "\\star", "\\bullet"), "\\cdot"),
    **dict.fromkeys(("\\backslash", "\\smallsetminus"), "\\setminus"),
    **dict.fromkeys(("\\approxeq", "\\simeq"), "\\approx"),
    **dict.fromkeys(("\\doteq", "\\equiv", "\\coloneqq"), "="),
    **dict.fromkeys(("\\div", "\\slash"), "/"),
    **dict.fromkeys(("\\R", "\\reals"), "\\Reals"),
    "\\neq": "\\ne",
    "\\lt": "<",
    "\\gt": ">",
    "\\varnothing": "\\emptyset",
    "\\lbrace": "\\{",
    "\\rbrace": "\\}",
    "\\lbrack": "[",
    "\\rbrack": "]",
    "\\lparen": "(",
    "\\rparen": ")",
    "\\varphi": "\\phi",
    "\\varepsilon": "\\epsilon",
    "\\bigcup": "\\cup",
    "\\bigcap": "\\cap",
    "\\lor": "\\vee",
    "\\land": "\\wedge",
    "\\colon": ":",
    "\\degrees": "\\degree",
    "\\arccos": "\\acos",
    "\\arcsin": "\\asin",
    "\\arctan": "\\atan",
    "\\arccot": "\\acot",
    "\\arccsc": "\\acsc",
    "\\arcsec": "\\asec",
    "\\cosec": "\\csc",
    **{f"\\{prefix}{name}": f"\\a{name}" for prefix in ("arc", "ar") for name in ("sinh", "cosh", "tanh")},
    "\\tg": "\\tan",
    "\\ctg": "\\cot",
    "\\cotg": "\\cot",
    "\\infin": "\\infty",
    "\\overbar": "\\overline",
    "\\thinspace": "\\text",
}
_NOT_TYPED = {"add", "mul", "neg", "div", "pow", "degree", "percent", "root", "sqrt", "factorial", "binomial", "abs"}
_NOT_TYPED |= {"floor", "ceil"}
FUNCTIONS = {f"\\{name}" for name in FUNCTION_NAMES - _NOT_TYPED}
FUNCTIONS |= {f"\\{name}" for name in ("lg", "cis", "max", "min", "gcd", "lcm", "arg", "det", "Re", "Im")}
FUNCTION_WORDS = {name[1:] for name in FUNCTIONS} | {"abs"}
FUNCTION_WORDS |= {name[1:] for name, alias in _ALIASES.items() if alias in FUNCTIONS}
_BRACKETS = {"(": 1, "[": 1, "\\{": 1, ")": -1, "]": -1, "\\}": -1}


def tokenize(text: str, is_plain: bool) -> list[Token]:
    """All tokens and an ``end``.

    Args:
        is_plain: ``1,234`` is two numbers outside of brackets and one inside (else the other way about), and
            ``2e-3`` is 0.002.

    Raises:
        TooComplex: too many tokens, or digits in one number.
    """
    tokens: list[Token] = []
    depth = position = 0
    is_spaced = False
    while position < len(text):
        found = _TOKEN.match(text, position)
        assert found is not None
        kind, value = str(found.lastgroup), found.group()
        position = found.end()
        if kind == "space":
            is_spaced = True
            continue
        if kind == "comma" and (depth > 0) is not is_plain:
            kind, value = "num", value.partition(",")[0]
            position = found.start() + len(value)
        if is_plain and kind == "num" and (longer := _SIGNED_SCI.match(text, found.start())):
            kind, value, position = "sci", longer.group(), longer.end()
        for token in [Token("text", found["text"])] if kind == "text" else _tokens_of(kind, value):
            tokens.append(replace(token, is_spaced=True) if is_spaced else token)
            is_spaced = False
            depth += _BRACKETS.get(token.text, 0)
        if len(tokens) > MAX_TOKENS:
            raise TooComplex("too many symbols")
    tokens.append(Token("end", "", is_spaced))
    return tokens


def _tokens_of(kind: str, value: str) -> list[Token]:
    if kind in ("num", "sci", "rep", "dots", "big", "comma", "eur") and len(value) > MAX_DIGITS:
        raise TooComplex(f"a number of {len(value)} digits")
    match kind:
        case "big" | "comma":
            return [Token("num", re.sub(r"\{,\}|\\[,;: ]|[~,]", "", value))]
        case "eur":
            return [Token("num", value.replace("{,}", "."))]
        case "cmd":
            value = _ALIASES.get(value, value)
            return [Token("cmd" if value.startswith("\\") else "sym", value)]
        case "word":
            return word_tokens(value)
        case "run":
            if value == "!=":
                return [Token("sym", "!"), Token("sym", "=")]
            alias = {"<=": "\\le", ">=": "\\ge", "==": "=", "**": "^", "...": "\\ldots"}[value]
            return [Token("cmd" if alias.startswith("\\") else "sym", alias)]
        case _:
            return [Token(kind, value)]


def word_tokens(word: str) -> list[Token]:
    """A run of plain letters: a known word, or a product of one-letter variables."""
    if word in ("and", "or"):
        return [Token("text", word)]
    if word in PLAIN_WORDS:
        alias = PLAIN_WORDS[word]
        return [Token("cmd" if alias.startswith("\\") else "sym", alias)]
    if word.lower() in FUNCTION_WORDS:
        name = "\\" + word.lower()
        return [Token("cmd", _ALIASES.get(name, name))]
    return [Token("let", letter) for letter in word]


# ------------------------------------------------------------------------------------------------ numbers


def literal(text: str) -> Number:
    """A decimal literal, exactly."""
    whole, point, digits = text.partition(".")
    return Number(Fraction(int(whole + digits or "0"), 10 ** len(digits)), len(digits) if point else None)


def scientific(text: str) -> Number:
    """``1.5e3``."""
    mantissa, _, exponent = text.replace("E", "e").partition("e")
    if len(exponent) > 5:
        raise TooComplex("a power of ten of too many digits")
    return Number(literal(mantissa).value * Fraction(10) ** int(exponent))


def repeating(text: str) -> Number:
    """``0.1\\overline{6}``, ``0.\\dot{3}``, ``0.(3)``."""
    whole, _, rest = text.partition(".")
    plain = re.match(r"\d*", rest)
    assert plain is not None
    return _from_period(whole, plain.group(), "".join(re.findall(r"\d+", rest[plain.end() :])))


_PERIOD_AT_END = re.compile(r"(?P<plain>\d*?)(?P<period>\d{1,12}?)(?P=period)+\Z")


def dotted(text: str) -> Number:
    """``0.333...``: the shortest period that was written out at least twice.

    Raises:
        Unreadable: no period can be seen.
    """
    digits = re.match(r"(\d*)\.(\d{1,60})(?!\d)", text)
    period = _PERIOD_AT_END.match(digits[2]) if digits is not None else None
    if digits is None or period is None:
        raise Unreadable("a decimal that goes on without a period")
    return _from_period(digits[1], period["plain"], period["period"])


def _from_period(whole: str, plain: str, period: str) -> Number:
    head = Fraction(int((whole + plain) or "0"), 10 ** len(plain))
    return Number(head + Fraction(int(period), (10 ** len(period) - 1) * 10 ** len(plain)))
