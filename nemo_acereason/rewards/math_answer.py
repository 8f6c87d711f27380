"""Find the final answer in a response. Takes text apart; understands no mathematics.

The one place of the format policy: what counts is the last complete ``\\boxed{}`` after the last ``</think>``.
"""

from __future__ import annotations

import re

THINK_END = "</think>"
_BRACE_OR_BOX = re.compile(r"\\{1,3}boxed\s*\{|\\[\\{}]|[{}]")


def after_thinking(response: str) -> tuple[str, bool]:
    """The text after the last ``</think>`` and whether there was one; the whole text where there was none."""
    _, found, visible = response.rpartition(THINK_END)
    return visible, bool(found)


def last_boxed(text: str) -> str | None:
    """The content of the last box, or None where there is none; linear in the length of ``text``.

    Of boxes inside one another the outermost complete one counts. Where the last box is never closed the result is
    None: an answer cut off by the token limit is not completed by guessing, nor replaced by an earlier box.

    >>> last_boxed(r"so \\boxed{1}, no: \\boxed{\\frac{1}{2}}")
    '\\\\frac{1}{2}'
    """
    last_opened = -1
    open_braces: list[int] = []  # start of a box's content, or -1 for a plain brace
    complete: list[tuple[int, int]] = []  # boxes in order, none inside another
    for match in _BRACE_OR_BOX.finditer(text):
        token = match.group()
        if token == "{":
            open_braces.append(-1)
        elif token == "}":
            if open_braces and (start := open_braces.pop()) >= 0:
                while complete and complete[-1][0] > start:
                    complete.pop()
                complete.append((start, match.start()))
        elif token[-1] == "{" and len(token) > 2:
            last_opened = match.end()
            open_braces.append(last_opened)
    if not complete or not complete[-1][0] <= last_opened <= complete[-1][1]:
        return None
    return text[slice(*complete[-1])]
