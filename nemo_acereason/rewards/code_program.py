"""Finds the program in a response. Does not run or parse it: here model code is only ever text."""

from __future__ import annotations

import re

from nemo_acereason.records import Verdict

_PYTHON = frozenset({"python", "python3", "py"})
_FENCE = re.compile(r"^[ \t]*(`{3,}|~{3,})[ \t]*([^\s`]*)[^\n`]*$", re.MULTILINE)


def find_program(text: str, *, requires_think: bool) -> str | Verdict:
    """The last complete python fence after the last ``</think>``.

    Args:
        requires_think: a response without ``</think>`` has not finished its reasoning; else the whole text is searched.
    Returns:
        The program, or why there is none: ``unfinished`` or ``no_answer``.
    Source: AceReason-Nemotron 1.0 sec. 3.1.
    """
    _, end_of_thought, answer = text.rpartition("</think>")
    if requires_think and not end_of_thought:
        return Verdict.UNFINISHED
    program: str | None = None
    opened: re.Match[str] | None = None
    for fence in _FENCE.finditer(answer):
        marks, language = fence.groups()
        if opened is None:
            opened = fence
        elif not language and marks.startswith(opened[1]):
            if opened[2].lower() in _PYTHON:
                program = answer[opened.end() + 1 : fence.start()]
            opened = None
        elif language.lower() in _PYTHON and opened[2].lower() in _PYTHON:
            opened = fence  # the one before was never closed: it is not a program
    if program is None or not program.strip():
        return Verdict.NO_ANSWER
    return program
