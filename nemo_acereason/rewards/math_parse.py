"""Read an answer as people and models write it, LaTeX or plain, into :mod:`nemo_acereason.rewards.math_tree`.

A recursive descent, bounded in length, tokens and depth. Nothing is evaluated, and no text reaches ``eval``,
``sympify`` or a parser that does.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from fractions import Fraction

from nemo_acereason.rewards.math_clean import clean, fold_words
from nemo_acereason.rewards.math_tokens import (
    FUNCTION_WORDS,
    FUNCTIONS,
    PLAIN_WORDS,
    Token,
    dotted,
    literal,
    repeating,
    scientific,
    tokenize,
    word_tokens,
)
from nemo_acereason.rewards.math_tree import (
    EMPTY_SET,
    INFINITY,
    REALS,
    Based,
    Choice,
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
)
from nemo_acereason.rewards.math_units import same_unit_factor
from nemo_acereason.rewards.math_value import FUNCTION_NAMES
from nemo_acereason.rewards.math_words import spoken_number

MAX_DEPTH = 60
"""Of rules within rules; a bracket or a fraction takes two."""

_WORDS = re.compile(r"[A-Za-z][A-Za-z'\u2019.-]*(?:[ ,]+[A-Za-z][A-Za-z'\u2019.-]*)*")
_SHORT_WORDS = frozenset(["yes", "no", "odd", "one", "two", "six", "ten", "red", "any", "all", "dne"])
_UNIT_ABBREVIATIONS = (
    "mm|cm|dm|km|kg|mg|ml|mL|cc|ft|in|yd|mi|lb|lbs|oz|hr|hrs|min|mins|sec|secs|mph|kmh|kph|rpm|rad|Hz|kWh|kW|kJ|mol"
    "|km/h|m/s|cm/s|ft/s|mi/h|p\\.?m\\.?|a\\.?m\\.?|PM|AM|USD|dollars?|cents?|euros?"
)
_SPACES = r"(?:\s|\\[,;: !]|~)"
_POWER = r"(?:\s*\^\s*(?:[23]|\{[23]\}))?"
_GLUED_UNIT = re.compile(rf"(?<=[\d}})]){_SPACES}*(?P<unit>(?:{_UNIT_ABBREVIATIONS}){_POWER})\s*\Z")
_TRAILING_WORDS = re.compile(
    rf"(?<=[\d}})]){_SPACES}+(?P<unit>[A-Za-z]{{2,}}\.?(?:(?:\s+|/)[A-Za-z]+\.?)*{_POWER})\s*\Z"
)
_UPRIGHT = re.compile(
    r"\\(?:mathrm|operatorname)\s*\{[\s~]*"
    r"(?P<words>[a-zA-Z]{2,}[a-zA-Z /]*|[a-zA-Z]+/[a-zA-Z]+(?:\^(?:\d|\{\d\}))?)\s*\}"
)
_UPRIGHT_UNIT = re.compile(r"(?<=[\d})])(?P<gap>(?:\s|\\[,;: ]|~)*)\\mathrm\s*\{[\s~]*(?P<unit>[mgshLlNJWVK])\s*\}")
_NOT_UNIT_WORDS = frozenset(["and", "or", "to", "mod", "in", "if", "not", "for", "choose", "union", "is", "are"])
_SAYINGS = frozenset(
    [
        "is",
        "are",
        "was",
        "not",
        "isn't",
        "no",
        "never",
        "wrong",
        "incorrect",
        "except",
        "if",
        "when",
        "unless",
        "or",
        "else",
        "but",
        "maybe",
        "perhaps",
        "than",
        "least",
        "most",
        "only",
        "factorial",
        "half",
        "halves",
        "thirds",
        "fourths",
        "fifths",
        "tenths",
        "root",
        "pi",
        "log",
        "ln",
        "sin",
        "cos",
        "tan",
        "doubled",
        "tripled",
        "halved",
        "twice",
        "negative",
        "inverse",
        "below",
    ]
)
"""After a value they change it; a unit has none of them."""
_NEVER_FIRST = (["squared"], ["cubed"], ["and"], ["to"], ["etc"], ["off"], ["power"])
_UNIT_LETTERS = "mgshlLNJVWKCFdu"
_LOOSE_DIGIT = re.compile(r"(?<![\w^{.-])(?<!mod )\d|\b[A-Z]\d")
_BASED = re.compile(
    r"\(?\s*(?P<digits>[0-9A-Fa-f]+)\s*\)?\s*_\s*(?:\{\s*\(?\s*(?P<a>\d{1,3}|[a-z]{3,8})\s*\)?\s*\}|\(?(?P<b>\d{1,3})\)?)"
)
_FILLER = frozenset(
    [
        "the",
        "answer",
        "is",
        "final",
        "so",
        "thus",
        "hence",
        "therefore",
        "a",
        "an",
        "exactly",
        "equals",
        "equal",
        "value",
        "total",
        "result",
        "we",
        "get",
        "have",
        "solution",
        "there",
        "are",
        "point",
        "points",
        "ordered",
        "pair",
        "triple",
        "vector",
        "interval",
        "set",
        "approximately",
        "about",
    ]
)
_CURRENCIES = frozenset(["euro", "eur", "pound", "gbp", "rupee", "rs", "inr", "yen", "usd", "us"])
"""What may stand before an amount; ``\\$`` is a command of its own."""
_ANSWER_IS = re.compile(
    r"(?i)\s*(?:(?:so|thus|hence|therefore),? )?(?:the )?(?:final |correct )?answer\s*(?:is:?|:|=)\s*"
)
_SAID_BASE = re.compile(
    r"(?P<digits>[0-9A-Fa-f]+)(?:\s|\\[,;: ]|~|\\text\{|\()*(?:in )?(?:base|Base)[\s~}-]*(?:\\text\{)?"
    r"(?P<base>\d{1,3}|[a-z]{3,8})[\s)}]*"
)
_EMPTY_TEXTS = frozenset(
    ("no solution", "no solutions", "no real solution", "no real solutions", "empty set", "none", "no roots")
)
_REAL_TEXTS = frozenset(("all real numbers", "all reals", "real numbers", "any real number", "all real"))
_INFINITY_TEXTS = frozenset(("infinity", "positive infinity", "infinite"))
_RELATIONS = {"=": "=", "<": "<", ">": ">", "\\le": "<=", "\\ge": ">=", "\\ne": "!=", "\\in": "in", "\\approx": "~"}
_SET_OPERATORS = {"\\cup": "cup", "\\cap": "cap", "\\setminus": "setminus"}
_CLOSERS = frozenset((")", "]", "\\}", "}", "\\rangle", "\\rfloor", "\\rceil", "&", "\\\\", "\\end"))
_NO_FACTOR = frozenset(
    [
        "\\dollar",
        "\\vee",
        "\\wedge",
        "\\pmod",
        "\\bmod",
        "\\mod",
        "\\pm",
        "\\mp",
        "\\to",
        "\\%",
        "\\degree",
        "\\cdot",
        "\\times",
    ]
)
_DECORATIONS = frozenset(
    ["\\vec", "\\hat", "\\bar", "\\overline", "\\overrightarrow", "\\mathbf", "\\widehat", "\\underline"]
)
_OPENERS = frozenset(("(", "[", "{", "|", "\\{", "\\langle", "\\lfloor", "\\lceil", "\\norm"))
_JOINERS = {"and": "and", "or": "or", ", and": "and", ", or": "or", "and/or": "or", "\\vee": "or", "\\wedge": "and"}
_INVERTIBLE = frozenset(["sin", "cos", "tan", "sec", "csc", "cot", "sinh", "cosh", "tanh"])
_MATRICES = frozenset(
    ["pmatrix", "bmatrix", "matrix", "Bmatrix", "smallmatrix", "array", "psmallmatrix", "bsmallmatrix"]
)
_LETTER_NAMES = """
    alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron pi rho sigma tau upsilon phi chi
    psi omega vartheta varrho varsigma varpi Gamma Delta Theta Lambda Xi Pi Sigma Upsilon Phi Psi Omega ell hbar aleph
"""
_LETTERS = frozenset(f"\\{name}" for name in _LETTER_NAMES.split())
_LITERALS: dict[str, Callable[[str], Number]] = {"rep": repeating, "dots": dotted, "sci": scientific}


class _Parser:
    """One descent over one list of tokens."""

    def __init__(self, tokens: list[Token]) -> None:
        self._tokens = tokens
        self._at = 0
        self._depth = 0
        self._open_bars = 0
        self._in_set = False
        self._is_reversed = False
        """Inside ``]a, b[``, where ``[`` closes."""

    # -- plumbing

    def _peek(self, ahead: int = 0) -> Token:
        return self._tokens[min(self._at + ahead, len(self._tokens) - 1)]

    def _next(self) -> Token:
        token = self._peek()
        self._at += 1
        return token

    def _sees(self, *texts: str) -> bool:
        token = self._peek()
        return token.is_mark and token.text in texts

    def _accept(self, *texts: str) -> str | None:
        return self._next().text if self._sees(*texts) else None

    def _expect(self, *texts: str) -> str:
        got = self._accept(*texts)
        if got is None:
            raise Unreadable(f"{self._peek().text or 'the end'} where {' or '.join(texts)} was wanted")
        return got

    def _deeper(self) -> None:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise TooComplex("too deeply nested")

    # -- lists and relations

    def whole(self) -> Node:
        items, joiner = self._items(is_spread=True)
        if self._peek().kind != "end":
            raise Unreadable(f"{self._peek().text} is left over")
        return items[0] if len(items) == 1 else Collection(tuple(items), joiner=joiner)

    def _list(self) -> Node:
        items, joiner = self._items()
        return items[0] if len(items) == 1 else Collection(tuple(items), joiner=joiner)

    def _items(self, *, is_spread: bool = False) -> tuple[list[Node], str]:
        items: list[Node] = []
        joiner = ","
        self._deeper()
        while True:
            item = self._relation()
            items.extend(_spread(item) if is_spread else [item])
            separators = 0
            while (found := self._separator()) is not None:
                separators += 1
                joiner = joiner if found == "," else found
            if not separators or self._at_close():
                break
        self._depth -= 1
        return items, joiner

    def _separator(self) -> str | None:
        if self._is_joiner():
            return _JOINERS[" ".join(self._next().text.lower().split())]
        got = self._accept(",", ";", "\\vee", "\\wedge")
        return None if got is None else _JOINERS.get(got, ",")

    def _is_joiner(self) -> bool:
        token = self._peek()
        return token.kind == "text" and " ".join(token.text.lower().split()) in _JOINERS

    def _at_close(self) -> bool:
        token = self._peek()
        return token.kind == "end" or (token.is_mark and token.text in _CLOSERS)

    def _relation(self) -> Node:
        self._accept("=", "\\approx")  # "= 5" and "\approx 5" alone
        sides = [self._measured()]
        ops: list[str] = []
        while True:
            if self._sees("!") and self._peek(1).text == "=":
                self._at += 2
                ops.append("!=")
            elif self._peek().is_mark and self._peek().text in _RELATIONS:
                ops.append(_RELATIONS[self._next().text])
            else:
                break
            sides.append(self._measured())
        return Relation(tuple(sides), tuple(ops)) if ops else sides[0]

    def _measured(self) -> Node:
        """A value and its unit, or words alone."""
        start = self._at
        currency = ""
        words: list[str] = []
        while self._peek().kind == "text" and not self._is_joiner():
            words.append(self._next().text)
        if words:
            said = fold_words(" ".join(words))
            if self._at_close() or self._is_joiner() or self._sees(",", ";", "=", "\\approx"):
                return word_value(said)
            if len(words) == 1 and re.fullmatch("[a-zA-Z]", words[0].strip()):
                self._at = start  # a letter in upright type
            elif said in _CURRENCIES:
                currency = said
            elif all(word in _FILLER for word in re.findall("[a-z]+", said)):
                self._accept(":")
            else:
                raise Unreadable(f"words before a value: {said}")
        unit = "dollar" if self._accept("\\dollar") is not None else currency
        value = self._ratio()
        if self._accept("\\dollar") is not None:
            unit = "dollar"
        unit = self._unit() or unit
        if (said_again := spoken_number(unit.strip(" ()").lower())) is not None:  # 5 (five)
            if value != Number(said_again):
                raise Unreadable(f"another number after a value: {unit}")
            unit = ""
        while self._peek().kind == "num" and (factor := self._smaller(unit)) is not None:
            value = Op("add", (value, Op("mul", (factor, self._ratio()))))
            unit = unit.removesuffix(" and")
            self._unit()
        return Measured(value, unit) if unit else value

    def _smaller(self, unit: str) -> Number | None:
        """Of ``5 feet 6 inches`` what an inch is in feet; None where no smaller unit of the same kind follows."""
        after = self._peek(1)
        factor = same_unit_factor(unit.removesuffix(" and"), after.text) if after.kind == "text" and unit else None
        return Number(factor) if factor is not None and factor < 1 else None

    def _unit(self) -> str:
        parts: list[str] = []
        while True:
            token = self._peek()
            if token.kind == "text" and not self._is_joiner():
                parts.append(self._next().text)
            elif parts and self._sees("^"):
                self._at += 1
                parts.append("^" + self._raw_argument())
            elif parts and self._sees("/", "\\cdot") and self._peek(1).kind == "text":
                parts.append("/" if self._next().text == "/" else " ")
            elif self._sees("\\pmod", "\\bmod", "\\mod"):
                self._at += 1
                parts.append("mod " + self._raw_argument())
            elif self._sees("(") and self._peek(1).text in ("\\mod", "\\bmod"):
                self._at += 2
                parts.append("mod " + self._raw_argument())
                self._expect(")")
            else:
                break
        said = " ".join(parts).strip()
        words = re.findall("[a-z']+", said.lower())
        is_letter = len(said) == 1 and said.isalpha() and said not in _UNIT_LETTERS
        is_number = len(words) > 1 and any(spoken_number(word) is not None for word in words)
        if is_number or _SAYINGS & set(words) or words[:1] in _NEVER_FIRST or is_letter or _LOOSE_DIGIT.search(said):
            raise Unreadable(f"words that are no unit: {said}")
        return said

    def _ratio(self) -> Node:
        parts: list[Node] = []
        texts: list[str] = []
        while True:
            start = self._at
            parts.append(self._set_expression())
            texts.append("".join(token.text for token in self._tokens[start : self._at]))
            if self._peek().kind == "text" and self._peek().text.strip() == "to":
                self._at += 1
            elif self._in_set or self._accept(":") is None:
                return parts[0] if len(parts) == 1 else Ratio(tuple(parts), tuple(texts))

    def _set_expression(self) -> Node:
        node = self._sum()
        while True:
            token = self._peek()
            name = _SET_OPERATORS.get(token.text) if token.kind == "cmd" else None
            if token.kind == "let" and token.text == "U" and isinstance(node, Collection | SetOp):
                name = "cup"  # a typed U between intervals
            if name is None:
                return node
            self._at += 1
            node = SetOp(name, node, self._sum())

    # -- arithmetic

    def _sum(self) -> Node:
        self._deeper()
        sign = self._signs()
        self._accept("\\dollar")  # -\$5
        terms = [_signed(sign, self._product())]
        while self._sees("+", "-", "\\pm", "\\mp"):
            sign = self._signs()
            terms.append(_signed(sign, self._product()))
        self._depth -= 1
        if len(terms) == 1:
            return terms[0]
        match terms:
            case [Symbol() as space, Op(name="neg", args=(Collection() as points,))] if space == REALS:
                return SetOp("setminus", REALS, points)
        return Op("add", tuple(terms))

    def _signs(self) -> str:
        """``+``, ``-``, ``±`` or ``∓`` for any run of signs."""
        is_minus = False
        choice = ""
        while (sign := self._accept("+", "-", "\\pm", "\\mp")) is not None:
            if sign == "-":
                is_minus = not is_minus
            elif sign != "+":
                choice = "±" if sign == "\\pm" else "∓"
        if choice:
            return {"±": "∓", "∓": "±"}[choice] if is_minus else choice
        return "-" if is_minus else "+"

    def _product(self) -> Node:
        factors = [self._factor()]
        while True:
            if self._accept("\\cdot", "\\times", "*") is not None:
                factors.append(_signed(self._signs(), self._factor()))
            elif self._sees("/") and self._peek(1).kind != "text":
                self._at += 1
                factors = [Op("div", (_multiply(factors), _signed(self._signs(), self._factor())))]
            elif self._starts_factor():
                if self._peek().kind in ("num", "rep", "dots", "sci") and self._tokens[self._at - 1].kind == "num":
                    raise Unreadable("two numbers side by side")
                factors.append(self._factor())
            else:
                return _multiply(factors)

    def _starts_factor(self) -> bool:
        token = self._peek()
        if token.kind == "let":
            return token.text != "U" or self._tokens[self._at - 1].text not in (")", "]", "\\}")
        if not token.is_mark:
            return token.kind in ("num", "rep", "dots", "sci")
        if token.text == "|":
            return not self._open_bars and not self._in_set
        if token.text == "\\norm":
            return not self._open_bars
        if token.text == "(" and self._peek(1).text in ("\\mod", "\\bmod"):
            return False
        if token.kind == "sym":
            return token.text in _OPENERS and not (token.text == "[" and self._is_reversed)
        return not (
            token.text in _RELATIONS
            or token.text in _SET_OPERATORS
            or token.text in _CLOSERS
            or token.text in _NO_FACTOR
        )

    def _factor(self) -> Node:
        node = self._atom()
        while self._peek().is_mark:
            text = self._peek().text
            if text == "^":
                self._at += 1
                node = self._power(node)
            elif text == "!" and (
                self._peek(1).text != "=" or (isinstance(node, Number) and not self._peek().is_spaced)
            ):
                self._at += 1
                is_double = self._accept("!") is not None
                node = Op("call", (node,), "!!") if is_double else Op("factorial", (node,))
            elif text in ("\\%", "%"):
                self._at += 1
                node = Op("percent", (node,))
            elif text == "\\degree":
                self._at += 1
                node = Op("degree", (node,))
            elif text == "'" and isinstance(node, Symbol):
                self._at += 1
                node = Symbol(node.name + "'")
            elif text == "_":
                self._at += 1
                node = self._subscript(node)
            else:
                break
        return node

    def _power(self, base: Node) -> Node:
        in_braces = self._sees("{")
        mark = self._peek(1 if in_braces else 0).text
        if mark in ("\\circ", "\\degree", "\\prime", "\\top", "T") and (not in_braces or self._peek(2).text == "}"):
            self._at += 3 if in_braces else 1
            return _marked(base, mark)
        if isinstance(base, Matrix | Collection):
            raise Unreadable("a power of a matrix or list")
        self._deeper()
        exponent = self._argument(is_power=True)
        self._depth -= 1
        return Op("pow", (base, exponent))

    def _argument(self, *, is_power: bool = False) -> Node:
        """What a command or ``^`` applies to: a group, or one token (one digit, for commands)."""
        if self._accept("{") is not None:
            node = self._list()
            self._expect("}")
            return node
        if is_power:
            sign = self._signs()
            return _signed(sign, self._atom())
        token = self._peek()
        if token.kind == "num" and len(token.text) > 1 and "." not in token.text:
            self._tokens[self._at] = replace(token, text=token.text[1:])
            return literal(token.text[0])
        return self._atom()

    def _raw_argument(self) -> str:
        """The text of a group or of one token."""
        if self._accept("{") is None:
            return self._next().text
        parts: list[str] = []
        depth = 1
        while True:
            token = self._next()
            if token.kind == "end":
                raise Unreadable("an unclosed group")
            depth += {"{": 1, "}": -1}.get(token.text, 0) if token.kind == "sym" else 0
            if not depth:
                return "".join(parts)
            parts.append(token.text)

    def _subscript(self, base: Node) -> Node:
        before = self._tokens[self._at - 2]
        raw = self._raw_argument().strip()
        if isinstance(base, Number):
            digits = before.text if before.kind == "num" else str(base.value)
            said = spoken_number(raw.lower())
            value = int(said) if said is not None else int(raw) if raw.isdecimal() and len(raw) < 4 else 0
            if not digits.isdecimal() or value < 2:
                raise Unreadable(f"a subscript {raw} of a number")
            return Based(digits, value)
        if isinstance(base, Symbol):
            return Symbol(f"{base.name}_{raw}")
        raise Unreadable(f"a subscript {raw}")

    def _atom(self) -> Node:
        token = self._next()
        if token.kind == "num":
            return self._maybe_mixed(token)
        if token.kind in _LITERALS:
            return _LITERALS[token.kind](token.text)
        if token.kind == "let":
            return Symbol(token.text)
        if token.kind == "text" and re.fullmatch(r"\s*[a-zA-Z]\s*", token.text):
            return Symbol(token.text.strip())
        if token.is_mark:
            if token.text in _OPENERS or token.text == "]":
                return self._group(token.text)
            if token.kind == "cmd":
                return self._command(token.text)
        raise Unreadable(f"{token.text or 'the end'} where a value was wanted")

    def _maybe_mixed(self, token: Token) -> Node:
        """``2\\frac{1}{2}`` and ``2 1/2`` are 5/2."""
        whole = literal(token.text)
        if whole.decimals is not None:
            return whole
        after = self._peek()
        part: Fraction | None = None
        start = self._at
        if after.text == "\\frac":
            self._at += 1
            tokens = self._tokens[:]  # a split of \frac12 is undone with the attempt
            try:
                part = proper_fraction(self._argument(), self._argument())
            except Unreadable:
                part = None
            if (
                part is None
                or self._sees("!")
                or (self._sees("^") and "\\circ" not in (self._peek(1).text, self._peek(2).text))
            ):
                self._at, self._tokens, part = start, tokens, None
        elif after.kind == "num" and after.is_spaced and self._peek(1).text == "/" and self._peek(2).kind == "num":
            part = proper_fraction(literal(after.text), literal(self._peek(2).text))
            self._at += 3 if part is not None else 0
        return whole if part is None else Number(whole.value + part)

    def _group(self, opening: str) -> Node:
        if opening in ("|", "\\norm"):
            self._open_bars += 1
            inner = self._list()
            self._expect(opening)
            self._open_bars -= 1
            return Op("abs", (inner,)) if opening == "|" else Op("call", (inner,), "norm")
        if opening in ("\\lfloor", "\\lceil"):
            inner = self._list()
            self._expect("\\rfloor" if opening == "\\lfloor" else "\\rceil")
            return Op("floor" if opening == "\\lfloor" else "ceil", (inner,))
        outside = self._open_bars, self._in_set
        self._open_bars, self._in_set = 0, opening == "\\{"
        node = self._bracketed(opening)
        self._open_bars, self._in_set = outside
        return node

    def _bracketed(self, opening: str) -> Node:
        if opening == "{":
            node = self._list()
            self._expect("}")
            return node
        if opening == "\\{":
            return self._set()
        outside, self._is_reversed = self._is_reversed, opening == "]"
        items, joiner = self._items()
        self._is_reversed = outside
        if opening == "\\langle":
            self._expect("\\rangle")
            return Collection(tuple(items), "(", ")")
        closing = self._expect(")", "]", "[")
        if len(items) == 1:
            if opening + closing in ("()", "[]"):
                return items[0]
            raise Unreadable("one value between unlike brackets")
        if opening == "[" and all(isinstance(item, Collection) and item.opening == "[" for item in items):
            return _matrix([list(item.items) for item in items if isinstance(item, Collection)])
        opening, closing = opening.replace("]", "("), closing.replace("[", ")")  # ]a, b[ is open
        return Collection(tuple(items), opening, closing, joiner)

    def _set(self) -> Node:
        if self._accept("\\}") is not None:
            return EMPTY_SET
        items, joiner = self._items(is_spread=True)
        if self._accept("|", ":") is not None:
            self._in_set = False
            conditions, joiner = self._items()
            self._expect("\\}")
            head = items[0].sides[0] if isinstance(items[0], Relation) else items[0]
            if len(items) != 1 or not isinstance(head, Symbol):
                raise Unreadable("a set built from an expression")
            if len(conditions) == 1:
                return conditions[0]
            return Collection(tuple(conditions), joiner="and" if joiner == "," else joiner)
        self._expect("\\}")
        return Collection(tuple(items), "{", "}")

    # -- commands

    def _command(self, name: str) -> Node:
        handler = _COMMANDS.get(name)
        if handler is not None:
            return handler(self)
        if name in FUNCTIONS:
            return self._function(name[1:])
        if name in _DECORATIONS:
            return self._decorated(name)
        if name not in _LETTERS:
            raise Unreadable(f"{name} is not understood")
        return Symbol(name)

    def frac(self) -> Node:
        top = self._argument()
        return Op("div", (top, self._argument()))

    def sqrt(self) -> Node:
        degree: Node | None = None
        if self._accept("[") is not None:
            degree = self._list()
            self._expect("]")
        value = self._atom() if self._peek().kind == "num" else self._argument()  # \sqrt12 is meant as that of 12
        return Op("sqrt", (value,)) if degree is None else Op("root", (value, degree))

    def cbrt(self) -> Node:
        return Op("root", (self._argument(), Number(Fraction(3))))

    def binom(self) -> Node:
        top = self._argument()
        return Op("binomial", (top, self._argument()))

    def absolute(self) -> Node:
        return Op("abs", (self._argument(),))

    def angle(self) -> Node:
        return Op("call", (self._product(),), "angle")

    def blackboard(self) -> Node:
        letter = self._raw_argument()
        return REALS if letter == "R" else Symbol(f"\\mathbb{{{letter}}}")

    def upright(self) -> Node:
        if self._sees("{") and self._peek(1).kind == "cmd" and self._peek(2).text != "}":  # mathematics, not a name
            return self._argument()
        raw = self._raw_argument().strip()
        if len(raw) == 1:
            return Symbol(raw)
        if raw.startswith("\\"):  # a word that the tokenizer knew
            return self._command(raw)
        if raw.isalpha() and (token := word_tokens(raw)[0]).kind == "cmd":
            return self._command(token.text)
        raise Unreadable(f"upright {raw}")

    def environment(self) -> Node:
        kind = self._raw_argument().rstrip("*")
        if kind == "array":
            self._raw_argument()
        if kind not in _MATRICES:
            raise Unreadable(f"a {kind}")
        rows: list[list[Node]] = [[]]
        outside = self._open_bars, self._in_set
        self._open_bars, self._in_set = 0, False
        self._deeper()
        while True:
            if self._accept("\\end") is not None:
                self._raw_argument()
                break
            if self._accept("\\\\") is not None:
                rows.append([])
            elif self._accept("&", "\\hline") is None:
                rows[-1].append(self._relation())
        self._depth -= 1
        self._open_bars, self._in_set = outside
        return _matrix([row for row in rows if row])

    def _function(self, name: str) -> Node:
        self._deeper()
        power: Node | None = None
        base: Node | None = None
        if name in ("min", "max") and self._accept("_") is not None:  # over what; the answer is how much
            self._raw_argument()
        if self._sees("="):
            self._depth -= 1
            return Symbol("\\" + name)  # "\max = 5"
        while (mark := self._accept("^", "_")) is not None:
            if mark == "^":
                power = self._argument(is_power=True)
            elif name == "log":
                base = self._argument()
            else:
                raise Unreadable(f"a subscript of {name}")
        argument = self._function_argument()
        self._depth -= 1
        if name == "lg":
            name, base = "log", Number(Fraction(10))
        if power == Number(Fraction(-1)):
            if name not in _INVERTIBLE:
                raise Unreadable(f"the inverse of {name}")
            name, power = "a" + name, None
        if name == "cis" and power is None:
            return Op("add", (Op("cos", (argument,)), Op("mul", (Symbol("i"), Op("sin", (argument,))))))
        if name not in FUNCTION_NAMES:
            node: Node = Op("call", argument.items if isinstance(argument, Collection) else (argument,), name)
        else:
            node = Op(name, (argument,) if base is None else (argument, base))
        return node if power is None else Op("pow", (node, power))

    def _function_argument(self) -> Node:
        if self._sees("(", "[", "|", "\\norm"):
            return self._atom()
        sign = self._signs()
        factors = [self._factor()]
        while self._starts_factor() and self._peek().text not in FUNCTIONS and not self._sees("("):
            factors.append(self._factor())
        return _signed(sign, _multiply(factors))

    def _decorated(self, name: str) -> Node:
        inner = self._argument()
        if name in ("\\bar", "\\overline"):
            return Op("call", (inner,), "bar")
        if inner in (Symbol("i"), Symbol("j"), Symbol("k")):
            return Symbol(f"\\hat{{{inner.name}}}")  # a basis vector, not the imaginary unit
        return inner


_COMMANDS: dict[str, Callable[[_Parser], Node]] = {
    "\\frac": _Parser.frac,
    "\\sqrt": _Parser.sqrt,
    "\\cbrt": _Parser.cbrt,
    "\\binom": _Parser.binom,
    "\\abs": _Parser.absolute,
    "\\begin": _Parser.environment,
    "\\mathbb": _Parser.blackboard,
    "\\mathds": _Parser.blackboard,
    "\\mathrm": _Parser.upright,
    "\\operatorname": _Parser.upright,
    "\\angle": _Parser.angle,
    "\\triangle": _Parser.angle,
    "\\measuredangle": _Parser.angle,
    "\\Reals": lambda _: REALS,
    "\\infty": lambda _: INFINITY,
    "\\emptyset": lambda _: EMPTY_SET,
    "\\imath": lambda _: Symbol("i"),
}


def _marked(base: Node, mark: str) -> Node:
    if mark in ("\\circ", "\\degree"):
        return Op("degree", (base,))
    if mark == "\\prime" and isinstance(base, Symbol):
        return Symbol(base.name + "'")
    if mark in ("\\top", "T") and isinstance(base, Matrix):
        return Matrix(tuple(zip(*base.rows, strict=True)))
    if mark in ("\\top", "T") and isinstance(base, Collection):
        return base
    if mark == "T":
        return Op("pow", (base, Symbol("T")))
    raise Unreadable(f"a power of {mark}")


def _matrix(rows: list[list[Node]]) -> Node:
    if not rows or any(len(row) != len(rows[0]) for row in rows):
        raise Unreadable("a matrix with rows of unlike length")
    return Matrix(tuple(tuple(row) for row in rows))


def proper_fraction(top: Node, bottom: Node) -> Fraction | None:
    """The fraction of a mixed number: natural literals, below one; else None."""
    if not isinstance(top, Number) or not isinstance(bottom, Number) or top.decimals is not None:
        return None
    if top.value.denominator != 1 or bottom.value.denominator != 1 or not 0 < top.value < bottom.value:
        return None
    return top.value / bottom.value


def _signed(sign: str, node: Node) -> Node:
    if sign == "+":
        return node
    if sign in ("±", "∓"):
        negative = Op("neg", (node,))
        return Choice((node, negative) if sign == "±" else (negative, node))
    if isinstance(node, Number):
        return Number(-node.value, node.decimals)
    if isinstance(node, Matrix):
        return _scaled(Number(Fraction(-1)), node)
    return Op("neg", (node,))


def _multiply(factors: Sequence[Node]) -> Node:
    if len(factors) == 1:
        return factors[0]
    matrices = [factor for factor in factors if isinstance(factor, Matrix)]
    if not matrices:
        return Op("mul", tuple(factors))
    scalars: list[Node] = [factor for factor in factors if not isinstance(factor, Matrix)]
    if len(matrices) > 1 or not scalars:
        raise Unreadable("a product of matrices")
    return _scaled(_multiply(scalars), matrices[0])


def _scaled(scalar: Node, matrix: Matrix) -> Matrix:
    return Matrix(tuple(tuple(Op("mul", (scalar, entry)) for entry in row) for row in matrix.rows))


def word_value(said: str) -> Node:
    """Folded words: a number word, one of the names of the empty set or the reals, a letter, or plain text."""
    if (number := spoken_number(said)) is not None:
        return Number(number)
    if said in _EMPTY_TEXTS:
        return EMPTY_SET
    if said in _REAL_TEXTS:
        return REALS
    if said in ("dne", "doesn't exist", "does not exist"):
        return Text("does not exist")
    if said in _INFINITY_TEXTS:
        return INFINITY
    if len(said) == 1 and said.isalpha():
        return Symbol(said.upper())
    if not said:
        raise Unreadable("empty text")
    return Text(said)


# -- plus-minus


def _spread(node: Node) -> list[Node]:
    """Plus-minus written out: two values, or all combinations of independent signs."""
    choices = list(_choices(node))
    if not choices:
        return [node]
    if len(choices) > 3:
        raise TooComplex("more than three plus-minus signs")
    # \pm and \mp in one expression go together; several \pm are independent of one another
    is_coupled = any(isinstance(choice.values[0], Op) and choice.values[0].name == "neg" for choice in choices)
    patterns = (
        [(side,) * len(choices) for side in (0, 1)] if is_coupled else itertools.product((0, 1), repeat=len(choices))
    )
    return [_pick(node, iter(pattern)) for pattern in patterns]


def _parts(node: Node) -> tuple[Node, ...]:
    match node:
        case Op(args=inner) | Relation(sides=inner) | Ratio(parts=inner) | Collection(items=inner):
            return inner
        case Measured(value=value):
            return (value,)
        case _:
            return ()


def _choices(node: Node) -> Iterator[Choice]:
    if isinstance(node, Choice):
        yield node
    for part in _parts(node):
        yield from _choices(part)


def _pick(node: Node, signs: Iterator[int]) -> Node:
    match node:
        case Choice(values=values):
            return values[next(signs)]
        case Op(args=inner):
            return replace(node, args=tuple(_pick(part, signs) for part in inner))
        case Relation(sides=inner):
            return replace(node, sides=tuple(_pick(part, signs) for part in inner))
        case Ratio(parts=inner):
            return replace(node, parts=tuple(_pick(part, signs) for part in inner))
        case Collection(items=inner):
            return replace(node, items=tuple(_pick(part, signs) for part in inner))
        case Measured(value=value):
            return replace(node, value=_pick(value, signs))
        case _:
            return node


# -- entry


@functools.lru_cache(maxsize=4096)
def parse(text: str, is_plain: bool = False) -> Node:
    """Read one answer.

    Args:
        text: what stood in the box, or the gold answer.
        is_plain: the other reading of what can be read two ways, see :func:`math_tokens.tokenize`.

    Raises:
        Unreadable: not of the grammar.
        TooComplex: too long, deep or large.
    """
    text = clean(text)
    if not text:
        raise Unreadable("an empty answer")
    if "ase" in text and (said_base := _SAID_BASE.fullmatch(text)) is not None:
        text = f"{said_base['digits']}_{{{said_base['base']}}}"
    if (based := _BASED.fullmatch(re.sub(r"\\(?:mathrm|text)\{(?:base )?([^{}]*)\}", r"\1", text))) is not None:
        base = based["a"] or based["b"]
        said = Fraction(base) if base.isdecimal() else spoken_number(base)
        if said is not None:
            return Based(based["digits"].upper(), int(said))
    if _WORDS.fullmatch(text) and _is_wordy(text):
        return _words(text)
    whole_text = re.fullmatch(r"\\text\{([^{}]*)\}", text)
    if whole_text is not None:
        return _inside_text(whole_text[1], is_plain)
    try:
        return _Parser(tokenize(_mark_units(text), is_plain)).whole()
    except RecursionError:
        raise TooComplex("too deeply nested") from None


def _words(text: str) -> Node:
    parts = [part for part in re.split(r",|\s(?:and|&)\s", text) if part.strip()]
    if len(parts) == 1:
        return word_value(fold_words(text))
    return Collection(tuple(word_value(fold_words(part)) for part in parts))


def _is_wordy(text: str) -> bool:
    words = re.findall("[A-Za-z]+", text)
    if any(word in FUNCTION_WORDS or word in PLAIN_WORDS for word in words if word != "in"):
        return False
    if len(words) == 1:
        return len(words[0]) > 3 or words[0].lower() in _SHORT_WORDS
    return max(map(len, words)) > 2 and any(len(word) > 2 and word.lower() != "and" for word in words)


def _inside_text(inner: str, is_plain: bool) -> Node:
    """``\\text{(E)}``, ``\\text{B,E}``, ``\\text{10 cm}`` and ``\\text{neither}``."""
    if not inner.strip():
        raise Unreadable("empty text")
    inner = _ANSWER_IS.sub("", inner, count=1) if _ANSWER_IS.match(inner) else inner
    if re.fullmatch(r"\W*[A-Za-z]{2,}\W*", inner) and "%" not in inner:
        return word_value(fold_words(inner))
    try:
        return parse(inner, is_plain)
    except TooComplex:
        raise
    except Unreadable:
        return _words(inner)


def _mark_units(text: str) -> str:
    """Put plain unit words at the end into ``\\text``."""
    if not (text[-1].isalpha() or text[-1] in ".}23"):
        return text
    if "\\mathrm" in text or "\\operatorname" in text:
        text = _UPRIGHT_UNIT.sub(r"\\text{\g<unit>}", _UPRIGHT.sub(_upright_text, text))
    if (glued := _GLUED_UNIT.search(text)) is not None:
        return f"{text[: glued.start()]}\\text{{{glued['unit'].replace('{', '').replace('}', '')}}}"
    if (words := _TRAILING_WORDS.search(text)) is not None:
        said = re.findall("[A-Za-z]+", words["unit"])
        if not any(word.lower() in _NOT_UNIT_WORDS or word in FUNCTION_WORDS | PLAIN_WORDS.keys() for word in said):
            return f"{text[: words.start()]}\\text{{{words['unit'].replace('{', '').replace('}', '')}}}"
    return text


def _upright_text(found: re.Match[str]) -> str:
    word = found["words"].strip().replace("{", "").replace("}", "")
    is_known = word in FUNCTION_WORDS or (word in PLAIN_WORDS and word != "in")
    return found.group() if is_known else f"\\text{{{word}}}"
