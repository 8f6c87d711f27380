"""Bring the many ways of writing an answer to one: a table of characters, one of commands, a few patterns.

Works on text only and in linear time; what the text means is :mod:`nemo_acereason.rewards.math_parse`'s.
"""

from __future__ import annotations

# ruff: noqa: RUF001 - characters that look like others are what this table is about
import re
import unicodedata

from nemo_acereason.rewards.math_tree import TooComplex

MAX_CHARS = 4000
"""Longer than any answer: the longest of MATH has 163 characters, a 4 x 4 matrix of fractions about 300."""

_SUPERSCRIPTS = "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ"
_SUBSCRIPTS = "₀₁₂₃₄₅₆₇₈₉"
_SUPERSCRIPT_RUN = re.compile(f"[{_SUPERSCRIPTS}]+")
_SUBSCRIPT_RUN = re.compile(f"[{_SUBSCRIPTS}]+")
_TO_PLAIN = str.maketrans(_SUPERSCRIPTS + _SUBSCRIPTS, "0123456789+-n0123456789")
_UNICODE = {
    "−": "-",
    "–": "-",
    "—": "-",
    "×": "\\times ",
    "·": "\\cdot ",
    "⋅": "\\cdot ",
    "∙": "\\cdot ",
    "÷": "\\div ",
    "⁄": "/",
    "π": "\\pi ",
    "∞": "\\infty ",
    "≤": "\\le ",
    "≥": "\\ge ",
    "≠": "\\ne ",
    "≈": "\\approx ",
    "∪": "\\cup ",
    "∩": "\\cap ",
    "∈": "\\in ",
    "∅": "\\emptyset ",
    "°": "\\degree ",
    "±": "\\pm ",
    "∓": "\\mp ",
    "ℝ": "\\mathbb{R}",
    "ℤ": "\\mathbb{Z}",
    "√": "\\sqrt ",
    "…": "\\ldots ",
    "′": "'",
    "⟨": "\\langle ",
    "⟩": "\\rangle ",
    "∖": "\\setminus ",
    "⇒": "\\implies ",
    "∠": "\\angle ",
    "½": "\\frac{1}{2}",
    "¼": "\\frac{1}{4}",
    "¾": "\\frac{3}{4}",
    "⅓": "\\frac{1}{3}",
    "⅔": "\\frac{2}{3}",
    "€": "\\text{euro}",
    "¢": "\\text{cent}",
    "£": "\\text{pound}",
    "₹": "\\text{rupee}",
    "¥": "\\text{yen}",
    "α": "\\alpha ",
    "β": "\\beta ",
    "γ": "\\gamma ",
    "δ": "\\delta ",
    "Δ": "\\Delta ",
    "θ": "\\theta ",
    "λ": "\\lambda ",
    "μ": "\\mu ",
    "ρ": "\\rho ",
    "σ": "\\sigma ",
    "φ": "\\phi ",
    "ω": "\\omega ",
}
_UNICODE_RUN = re.compile("[" + "".join(_UNICODE) + "]")
_IGNORED = re.compile(
    r"\\(?:left|right|middle|[bB]igg?[lrm]?|displaystyle|textstyle|scriptstyle|limits|nolimits|mathstrut|strut"
    r"|allowbreak|nobreak|rm|bf|it|hfill|centering|large|Large|huge|Huge|normalsize)(?![a-zA-Z])"
    r"|\\[hv]?phantom\s*(?![\s{a-zA-Z])|\\(?:hspace|vspace|phantom|hphantom|vphantom|color|tag|label)\*?\s*\{[^{}]*\}|\\!|(?<!\\)\$"
)
_INVISIBLE = re.compile("[\u0000\u200b\u200c\u200d\ufeff]")
_EMPTY_DELIMITER = re.compile(r"\\(?:left|right)\s*\.")
_TEXT_COMMAND = re.compile(
    r"\\(?:text(?:bf|it|rm|normal|sf|tt|up|md|sc)?|mbox|hbox|emph|mathtt|mathsf|textcolor\{\w+\})\s*\{"
)
_STYLE_COMMAND = re.compile(r"\\(?:mathit|mathnormal|boldsymbol|bm|pmb|mathcal|mathscr|mathfrak)(?![a-zA-Z])")
_WRAPPERS = (("\\(", "\\)"), ("\\[", "\\]"), ("\\boxed{", "}"), ("\\fbox{", "}"))
_CONCLUSION = re.compile(r"\\(?:Rightarrow|implies|Longrightarrow|therefore|iff|Leftrightarrow)(?![a-zA-Z])")
_THOUSANDS = re.compile(r"(?<=\d)(?:,\\!|\\!,|\\!,\\!|,\\!\\!)(?=\d{3}(?!\d))")
_ORDINAL = r"\\(?:text|mathrm)\s*\{\s*(?:st|nd|rd|th)\s*\}"
_ORDINAL_ENDS = tuple(end + brace for end in ("st", "nd", "rd", "th") for brace in ("", "}"))
_PLAIN_ORDINAL = re.compile(r"(\d+)(?:(?:st|nd|rd|th)|\^\s*\{\s*(?:st|nd|rd|th)\s*\})")
_REWRITTEN = (
    (re.compile(r"\A(?:\{\})?_\{?(\w+?)\}?\s*([PC])_\{?(\w+?)\}?(?=\s|=|\Z)"), r"\2_{\1,\3}"),
    (re.compile(r"\\not\s*(?:=|\\equiv(?![a-zA-Z]))"), r"\\ne "),
    (re.compile(r"\\mathrm\s*\{([^{}a-zA-Z]+|\([A-J]\)|[A-J])\}"), r"\1"),
    (re.compile(r"\\text\{\s*([,;:/])\s*\}"), r"\1"),
    (re.compile(r"\\\\\s*\[\s*-?[\d.]+\s*(?:pt|em|ex|mm|cm|in)\s*\]"), r"\\\\"),
    (re.compile(r"\\pounds(?![a-zA-Z])"), r"\\text{pound}"),
    (re.compile(r"\\euro(?![a-zA-Z])"), r"\\text{euro}"),
    (re.compile(rf"(?<=\d)\s*(?:\^\s*\{{\s*{_ORDINAL}\s*\}}|\^?\s*{_ORDINAL})"), ""),
    (re.compile(r"(?<=\d)\s*\^\s*\{\s*(?:st|nd|rd|th)\s*\}"), ""),
    (re.compile(r"\\(?:checkmark|blacksquare|square|qed)(?![a-zA-Z])"), ""),
    (re.compile(r"\\frac\s*\{\s*\\text\{([^{}]*)\}\s*\}\s*\{\s*\\text\{([^{}]*)\}\s*\}"), r"\\text{\1/\2}"),
    (re.compile(r"\{([^{}]*)\\choose(?![a-zA-Z])([^{}]*)\}"), r"\\binom{\1}{\2}"),
    (re.compile(r"\{([^{}]*)\\over(?![a-zA-Z])([^{}]*)\}"), r"\\frac{\1}{\2}"),
    (re.compile(r"\\mathbb\s*\{?R\}?\s*_\s*\{\s*\\geq?(?:slant)?\s*0\s*\}"), r"[0,\\infty)"),
    (re.compile(r"\A(?:[a-zA-Z]\s*:\s*)?[a-zA-Z]\s*\\mapsto(?![a-zA-Z])"), ""),
    (re.compile(r"\\mathbb\s*\{?R\}?\s*(?:\^\s*\{?\s*\+\s*\}?|_\s*\{\s*>\s*0\s*\})"), r"(0,\\infty)"),
    (re.compile(r"\\mathbb\s*\{?R\}?\s*(?:\^\s*\{?\s*-\s*\}?|_\s*\{\s*<\s*0\s*\})"), r"(-\\infty,0)"),
)
_LETTER_O_DEGREE = re.compile(r"(?<=\d)\s*\^\s*(?:o|\{\s*o\s*\})(?![a-zA-Z])")
_REALS_EXCEPT = re.compile(
    r"(?i)(?:x is |x can be )?(?:all|any) reals?(?: numbers?)?(?: x)?,? (?:except|but|other than)(?: for)? "
    r"(?:x ?(?:=|\\n?eq?) ?)?([^a-z]+)"
)
_HALF_OPEN = re.compile(r"\[([^\[\]]*,[^\[\]]*)\[")
_EDGE = ' \t\r\n,;:~"'
_FINAL_STOP = re.compile(r"(?<!\.)\.\s*\Z")
_SPACED_THOUSANDS = re.compile(r"-?\d{1,3}(?: \d{3})+(?:\.\d+)?")
_LEADING_SPACE = ("\\,", "\\;", "\\ ", "\\:")


def clean(text: str) -> str:
    """Drop what only spaces, sizes or colours; one command for each meaning.

    Raises:
        TooComplex: longer than ``MAX_CHARS``.
    """
    if len(text) > MAX_CHARS:
        raise TooComplex(f"an answer of {len(text)} characters")
    if not text.isascii() or "\x00" in text:
        text = _INVISIBLE.sub("", text)
        text = _SUPERSCRIPT_RUN.sub(lambda run: "^{" + run.group().translate(_TO_PLAIN) + "}", text)
        text = _SUBSCRIPT_RUN.sub(lambda run: "_{" + run.group().translate(_TO_PLAIN) + "}", text)
        text = _UNICODE_RUN.sub(lambda found: _UNICODE[found.group()], text)
        text = unicodedata.normalize("NFKC", text)
    text = text.strip()
    if text.startswith("**") and text.endswith("**"):
        text = text[2:-2].strip()
    if text.endswith(_ORDINAL_ENDS) and (ordinal := _PLAIN_ORDINAL.fullmatch(text)) is not None:
        text = ordinal[1]
    if _SPACED_THOUSANDS.fullmatch(text):
        text = text.replace(" ", "")
    if "\\" in text or "$" in text or "{.}" in text or text.startswith("_"):
        text = _clean_latex(text)
    if text.endswith("[") and (half_open := _HALF_OPEN.fullmatch(text.strip())):
        text = f"[{half_open[1]})"
    if "^" in text:
        text = _LETTER_O_DEGREE.sub(r"^\\circ", text)
    text = _FINAL_STOP.sub("", text.strip(_EDGE)).strip(_EDGE)
    if text.startswith("USD"):
        text = "\\dollar " + text[3:]
    while text.endswith("\\"):  # a final line break or control space
        text = _FINAL_STOP.sub("", text.rstrip("\\" + _EDGE)).rstrip(_EDGE)
    while text.startswith(_LEADING_SPACE):
        text = text[2:].lstrip(_EDGE)
    if "real" in text and (found := _REALS_EXCEPT.fullmatch(re.sub(r"\\text\{([^{}]*)\}", r"\1", text).strip())):
        return f"\\mathbb{{R}}\\setminus\\{{{found[1]}\\}}"
    return text


def _clean_latex(text: str) -> str:
    text = re.sub(r"(?<!\\)\\\$|\\textdollar(?![a-zA-Z])", r"\\dollar ", text).replace("\\\\%", "\\%")
    for opening, closing in _WRAPPERS * 2:
        if text.startswith(opening) and text.endswith(closing) and is_balanced(text[len(opening) : -len(closing)]):
            text = text[len(opening) : -len(closing)].strip()
    text = _THOUSANDS.sub("{,}", text)  # before the next line takes the \! away
    text = _EMPTY_DELIMITER.sub("", text).replace("{.}", ".")
    text = _STYLE_COMMAND.sub("", _IGNORED.sub("", text))
    text = _TEXT_COMMAND.sub(r"\\text{", text)
    for pattern, replacement in _REWRITTEN:
        text = pattern.sub(replacement, text)
    return _CONCLUSION.split(text)[-1]


def is_balanced(text: str) -> bool:
    """Every brace closed, none before it was opened."""
    depth = 0
    for brace in re.finditer(r"\\[{}\\]|[{}]", text):
        depth += {"{": 1, "}": -1}.get(brace.group(), 0)
        if depth < 0:
            return False
    return depth == 0


def fold_words(text: str) -> str:
    """Words for comparison: lower case, single blanks, no punctuation at the edges, no article in front."""
    text = re.sub(r"\\[a-zA-Z]+|[{}\\$()~]", " ", text).casefold()
    words = [word.strip(".,;:!?'\"’") for word in text.replace(",", " , ").split()]
    kept = [word for word in words if word]
    while len(kept) > 1 and kept[0] in ("the", "a", "an", "on"):
        kept.pop(0)
    return " ".join(kept)
