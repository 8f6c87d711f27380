"""JSON Lines files that survive a kill: whole lines or nothing, and a reader that forgives a torn last line.

Every record a run leaves behind (metrics, samples, evaluations) is such a file. This module knows nothing of what
the lines mean but the key ``step``, which :func:`drop_after` compares.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from nemo_acereason.errors import DataError


def append_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Append one line per row and return once they are on disk.

    All rows go down in one write. NaN and infinities, which JSON does not have, become ``null``.
    """
    text = "".join(json.dumps(_finite(row), ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
    # A lone surrogate in model text has no UTF-8 form; a run does not end over it.
    data = text.encode("utf-8", errors="replace")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab+") as file:
        _drop_torn_line(file)
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def read_lines(path: Path) -> list[dict[str, Any]]:
    """All whole lines of a file, in order; a missing file has none.

    A last line without its newline is what a kill in mid-write leaves, and is passed over.

    Raises:
        DataError: a line before the last is no JSON object: the file was not written by :func:`append_lines`.
    """
    if not path.exists():
        return []
    rows = []
    # Split at newlines only: str.splitlines would also cut at U+2028 inside a response.
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], start=1):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(f"{path}:{number} is not JSON ({error}); remove the line or the file") from error
        if not isinstance(row, dict):
            raise DataError(
                f"{path}:{number} holds {type(row).__name__}, want a JSON object; remove the line or the file"
            )
        rows.append(row)
    return rows


def drop_after(path: Path, step: int) -> int:
    """Rewrite a file without the lines whose ``step`` is larger, and without a torn last line.

    The new file takes the old one's place in one rename. Returns the number of lines dropped.
    """
    if not path.exists():
        return 0
    rows = read_lines(path)
    kept = [row for row in rows if row.get("step", 0) <= step]
    fresh = path.with_name(path.name + ".new")
    fresh.unlink(missing_ok=True)
    append_lines(fresh, kept)
    fresh.replace(path)
    return len(rows) - len(kept)


def _drop_torn_line(file: Any) -> None:
    """Cut a file open for reading and appending behind its last newline."""
    end = file.seek(0, os.SEEK_END)
    position = end
    while position > 0:
        start = max(0, position - 65536)
        file.seek(start)
        newline = file.read(position - start).rfind(b"\n")
        if newline >= 0:
            position = start + newline + 1
            break
        position = start
    if position < end:
        file.truncate(position)
    file.seek(0, os.SEEK_END)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
