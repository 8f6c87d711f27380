"""Row transforms for published data sets whose columns need more than renaming: name one in ``data.transform``.

Each takes a row and returns the row to use. A user's own works the same way, as ``module:function``.
"""

from __future__ import annotations

from typing import Any


def gsm8k(row: dict[str, Any]) -> dict[str, Any]:
    """GSM8K keeps its answer after ``####`` at the end of the worked solution; ``answer`` becomes that number.

    Works on both published spellings, with the solution in ``solution`` or in ``answer`` (and ``question``).

    Raises:
        ValueError: no ``####`` in the row.
    """
    solution = row.get("solution") or row.get("answer") or ""
    worked, mark, answer = solution.rpartition("####")
    if not mark:
        raise ValueError("no '####' before the final answer")
    problem = row["problem"] if "problem" in row else row["question"]
    # thousands separators would make 1,000 a pair for a LaTeX parser
    return {**row, "problem": problem, "solution": worked.strip(), "answer": answer.strip().replace(",", "")}
