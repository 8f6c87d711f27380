"""Generated programming problems with worked responses: small programs that a small model can learn to write.

A problem is ``read a b print a+b-3+a``; its worked response names the terms, then gives the program::

    <think>
    a
    +b
    -3
    +a
    </think>
    ```python
    a,b=map(int,input().split())
    print(a+b-3+a)
    ```

The reference holds stdin tests in the canonical form that :mod:`nemo_acereason.rewards.code_tests` judges by. Train and
held-out problems never meet.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from typing import Any

from nemo_acereason.data.toy_math import is_heldout, worked_problems
from nemo_acereason.errors import DataError

_NAMES = "abc"
_NUM_CASES = 3
_MAX_MISSES = 10_000


def programs(
    *, count: int, seed: int = 1, min_terms: int = 2, max_terms: int = 4, split: str = "train"
) -> Iterator[dict[str, Any]]:
    """Different problems as rows with ``id``, ``problem`` and ``tests``.

    Args:
        count: most rows; fewer come where the options allow no more.
        min_terms, max_terms: terms of the printed expression.
        split: ``train`` or ``heldout``.
    Raises:
        DataError: an option out of range.
    """
    for row in worked_programs(count=count, seed=seed, min_terms=min_terms, max_terms=max_terms, split=split):
        del row["response"]
        yield row


def worked_programs(
    *,
    count: int,
    seed: int = 1,
    min_terms: int = 2,
    max_terms: int = 4,
    split: str = "train",
    haste_rate: float = 0.0,
) -> Iterator[dict[str, Any]]:
    """As :func:`programs`, with a worked ``response``.

    Args:
        haste_rate: chance, after each term from the second on, that the rest of the expression is left out.
    """
    if split not in ("train", "heldout"):
        raise DataError(f"toy_code split={split!r}: want 'train' or 'heldout'")
    if not 2 <= min_terms <= max_terms:
        raise DataError(f"toy_code min_terms={min_terms}, max_terms={max_terms}: want 2 <= min_terms <= max_terms")
    rng = random.Random(f"{seed} {split} code")
    seen: set[str] = set()
    misses = 0
    while len(seen) < count and misses < _MAX_MISSES:
        names = _NAMES[: rng.randint(2, len(_NAMES))]
        terms = _draw_terms(rng, names, rng.randint(min_terms, max_terms))
        problem = f"read {' '.join(names)} print {''.join(terms)}"
        if problem in seen or is_heldout(problem) != (split == "heldout"):
            misses += 1
            continue
        misses = 0
        seen.add(problem)
        yield {
            "id": f"toy-code-{split}-{seed}-{len(seen) - 1}",
            "problem": problem,
            "tests": {"kind": "stdin", "cases": [_case(rng, names, terms) for _ in range(_NUM_CASES)]},
            "response": _worked_response(names, terms, rng, haste_rate),
        }


def worked_sums_and_programs(*, sums: dict[str, Any], programs: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Worked sums and worked programs in turn, each with its own options: one cold start for both domains."""
    pairs = itertools.zip_longest(worked_problems(**sums), worked_programs(**programs))
    for row in itertools.chain.from_iterable(pairs):
        if row is not None:
            yield {"id": row["id"], "problem": row["problem"], "response": row["response"]}


def _draw_terms(rng: random.Random, names: str, num_terms: int) -> list[str]:
    operands = [rng.choice(names)] + [rng.choice([*names, str(rng.randint(1, 9))]) for _ in range(num_terms - 1)]
    return [operands[0], *(rng.choice("+-") + operand for operand in operands[1:])]


def _case(rng: random.Random, names: str, terms: list[str]) -> dict[str, str]:
    values = {name: rng.randint(10, 99) for name in names}
    total = 0
    for term in terms:
        operand = term.lstrip("+-")
        value = values[operand] if operand in values else int(operand)
        total += -value if term.startswith("-") else value
    return {"input": " ".join(str(value) for value in values.values()) + "\n", "output": f"{total}\n"}


def _worked_response(names: str, terms: list[str], rng: random.Random, haste_rate: float) -> str:
    kept = terms[:1]
    for term in terms[1:]:
        if len(kept) > 1 and rng.random() < haste_rate:
            break
        kept.append(term)
    steps, expression = "\n".join(kept), "".join(kept)
    program = f"{','.join(names)}=map(int,input().split())\nprint({expression})"
    return f"<think>\n{steps}\n</think>\n```python\n{program}\n```"
