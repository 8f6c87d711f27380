"""Judge a file of responses from the command line: JSONL in, one verdict per row out, in the same order.

Uses the same reward functions and the same pool as training does. Rows that cannot be judged are named by line number
and left without a reward; they stop nothing.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from nemo_acereason.config.schema import RewardConfig
from nemo_acereason.errors import DataError
from nemo_acereason.records import Prompt, Sample, Score, Verdict
from nemo_acereason.sandbox.pool import RewardPool

REWARDS = {
    "math": "nemo_acereason.rewards.math:math_reward",
    "code": "nemo_acereason.sandbox.code_reward:code_reward",
}
_TIMEOUT_S = {"math": 10.0, "code": 3600.0}
"""Of one row. A program has limits of its own, test by test; the pool's is only behind them."""
_MEMORY_BYTES = {"math": 4 << 30, "code": 0}
_CHUNK_ROWS = 2048
_CHUNK_BYTES = 64 << 20


@dataclass
class VerifySummary:
    """What came out over the whole file."""

    kind: str
    num_rows: int = 0
    verdicts: Counter[str] = field(default_factory=Counter)
    bad_rows: list[tuple[int, str]] = field(default_factory=list)
    """Line number and what is wrong with it."""
    seconds: float = 0.0
    num_right: int = 0
    """Rows whose ``label`` is true."""
    num_wrong: int = 0
    false_rejects: list[str] = field(default_factory=list)
    """Ids of rows labelled right that were not called correct."""
    false_accepts: list[str] = field(default_factory=list)

    def text(self) -> str:
        """The report a person reads."""
        lines = [f"{self.num_rows} rows in {self.seconds:.1f} s"]
        lines += [f"  {verdict:15} {count:8d}" for verdict, count in self.verdicts.most_common()]
        lines += [f"  line {number}: {what}" for number, what in self.bad_rows[:20]]
        if len(self.bad_rows) > 20:
            lines.append(f"  and {len(self.bad_rows) - 20} more bad rows")
        for name, ids, total in (
            ("false accepts", self.false_accepts, self.num_wrong),
            ("false rejects", self.false_rejects, self.num_right),
        ):
            if total:
                some = f": {', '.join(ids[:10])}" if ids else ""
                lines.append(f"  {name}: {len(ids)} of {total} ({100 * len(ids) / total:.2f} %){some}")
        return "\n".join(lines)


@dataclass
class _Row:
    line: int
    row_id: Any
    prompt: Prompt | None = None
    sample: Sample | None = None
    requires_think: bool = False
    label: bool | None = None
    problem: str = ""


def verify_file(kind: str, input: Path, output: Path, num_workers: int = 2, report: bool = False) -> VerifySummary:  # noqa: A002
    """Judge every row of ``input`` and write the verdicts to ``output``.

    Args:
        kind: ``math`` (rows of ``id``, ``response``, ``answer``) or ``code`` (``id``, ``response`` or ``code``,
            ``tests``, optionally ``time_limit_s`` and ``memory_mb``). Either may have ``requires_think`` (default
            false) and ``label`` (true for a right response), from which error rates are made.
        report: print :meth:`VerifySummary.text`.

    Returns:
        The summary. Each row written has ``id``, ``verdict``, ``reward``, ``seconds`` and ``detail``; ``reward`` is
        null where nothing could be judged.

    Raises:
        DataError: no such kind, no such file, or the output cannot be written.
    """
    if kind not in REWARDS:
        raise DataError(f"verify {kind}: unknown kind; want {' or '.join(REWARDS)}")
    summary = VerifySummary(kind)
    start = time.perf_counter()
    part = output.with_name(f"{output.name}.part")  # takes its name when it is whole; the input may have that name too
    try:
        with input.open(encoding="utf-8", errors="replace") as rows, part.open("w", encoding="utf-8") as written:
            _verify(kind, rows, written, num_workers, summary)
        part.replace(output)
    except OSError as error:
        raise DataError(
            f"verify {kind}: {error.filename or input}: {error.strerror}; give readable input and a writable output"
        ) from error
    summary.seconds = time.perf_counter() - start
    if report:
        print(summary.text())
    return summary


def _verify(kind: str, rows: TextIO, written: TextIO, num_workers: int, summary: VerifySummary) -> None:
    rewards = [RewardConfig(REWARDS[kind], {"requires_think": requires_think}) for requires_think in (False, True)]
    with RewardPool(
        rewards[0], num_workers=num_workers, timeout_s=_TIMEOUT_S[kind], memory_bytes=_MEMORY_BYTES[kind]
    ) as pool:
        for chunk in _chunks(kind, rows):
            for row in chunk:
                if row.prompt is not None and row.sample is not None:
                    pool.use(rewards[row.requires_think])
                    pool.submit(row.prompt, row.sample, (row.line, 0))
            scores = pool.collect()
            for row in chunk:
                score = scores.get((row.line, 0))
                _count(row, score, summary)
                written.write(json.dumps(_result(row, score), ensure_ascii=False) + "\n")
            written.flush()


def _chunks(kind: str, rows: TextIO) -> Iterator[list[_Row]]:
    chunk: list[_Row] = []
    size = 0
    for line, text in enumerate(rows, start=1):
        if not text.strip():
            continue
        chunk.append(_read_row(kind, line, text))
        size += len(text)
        if len(chunk) >= _CHUNK_ROWS or size > _CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    yield chunk


def _read_row(kind: str, line: int, text: str) -> _Row:
    try:
        row = json.loads(text)
    except (ValueError, RecursionError) as error:
        return _Row(line, None, problem=f"not JSON: {str(error)[:100]}")
    if not isinstance(row, dict):
        return _Row(line, None, problem=f"a JSON {type(row).__name__}; want an object")
    read = _Row(line, row.get("id", line))
    for name, wanted in (("requires_think", bool), ("label", bool), ("time_limit_s", (int, float)), ("memory_mb", int)):
        value = row.get(name)
        if value is not None and (not isinstance(value, wanted) or (wanted is not bool and isinstance(value, bool))):
            read.problem = f"{name} is {value!r:.40}; want {'true or false' if wanted is bool else 'a number'}"
            return read
    response, code = row.get("response"), row.get("code")
    if kind == "code" and isinstance(code, str):
        response = f"```python\n{code}\n```"
    if not isinstance(response, str):
        read.problem = f"no text in {'response or code' if kind == 'code' else 'response'}"
        return read
    reference = row.get("answer" if kind == "math" else "tests")
    if kind == "math" and isinstance(reference, int | float) and not isinstance(reference, bool):
        reference = str(reference)
    if reference is None or (kind == "math" and not isinstance(reference, str)):
        read.problem = f"no {'text in answer' if kind == 'math' else 'tests'}"
        return read
    read.requires_think = bool(row.get("requires_think", False))
    read.label = row.get("label")
    extra = {name: row[name] for name in ("time_limit_s", "memory_mb", "starter_code") if row.get(name) is not None}
    read.prompt = Prompt(f"line-{line}", str(row.get("problem") or ""), reference, kind, "", (), extra)
    read.sample = Sample((), (), response, "stop", 0)
    return read


def _count(row: _Row, score: Score | None, summary: VerifySummary) -> None:
    summary.num_rows += 1
    verdict = Verdict.INFRASTRUCTURE if score is None else score.verdict
    summary.verdicts[verdict.value] += 1
    if row.problem:
        summary.bad_rows.append((row.line, row.problem))
    if row.label is None or verdict is Verdict.INFRASTRUCTURE:
        return
    is_correct = verdict is Verdict.CORRECT
    summary.num_right += row.label
    summary.num_wrong += not row.label
    if is_correct is not row.label:
        (summary.false_accepts if is_correct else summary.false_rejects).append(str(row.row_id))


def _result(row: _Row, score: Score | None) -> dict[str, Any]:
    if score is None:
        detail = f"line {row.line}: {row.problem}"
        return {"id": row.row_id, "verdict": "infrastructure", "reward": None, "seconds": 0.0, "detail": detail}
    return {
        "id": row.row_id,
        "verdict": score.verdict.value,
        "reward": None if score.verdict is Verdict.INFRASTRUCTURE else score.reward,
        "seconds": round(score.seconds, 6),
        "detail": score.detail,
    }
