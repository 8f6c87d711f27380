"""One worker process of the reward pool: imports reward functions, judges one sample after the other.

Started by :mod:`nemo_acereason.sandbox.pool` as ``python -m``; never forked from a process that has threads. It
enforces nothing on itself but the memory limit: deadlines are the pool's, which kills this process. Frames on two
pipes of its own (not stdin and stdout, which a reward function may write to): four bytes of length, then a pickle
from the pool, whose data is ours, or JSON to the pool, so that nothing a sample made is ever unpickled.
"""

from __future__ import annotations

import json
import os
import pickle
import resource
import signal
import struct
import sys
import time
import traceback
from typing import Any

from nemo_acereason.rewards.score import as_score, load_reward
from nemo_acereason.sandbox.lifetime import die_with_parent

_LENGTH = struct.Struct("<I")


def read_frame(fd: int) -> bytes | None:
    """One frame, or None where the other side has closed the pipe."""
    head = _read_exactly(fd, _LENGTH.size)
    return None if head is None else _read_exactly(fd, _LENGTH.unpack(head)[0])


def write_frame(fd: int, payload: bytes) -> None:
    """Write one frame whole."""
    view = memoryview(_LENGTH.pack(len(payload)) + payload)
    while view:
        view = view[os.write(fd, view) :]


def _read_exactly(fd: int, size: int) -> bytes | None:
    parts = bytearray()
    while len(parts) < size:
        part = os.read(fd, size - len(parts))
        if not part:
            return None
        parts += part
    return bytes(parts)


def _answer(request: tuple[str, str, dict[str, Any], Any, Any]) -> dict[str, Any]:
    kind, function, options, prompt, sample = request
    start = time.perf_counter()
    try:
        reward = load_reward(function)
        if kind == "load":
            return {"loaded": function}
        score = as_score(reward(prompt, sample, **options), time.perf_counter() - start)
    except MemoryError:
        return {"memory": True, "seconds": time.perf_counter() - start}
    except Exception as error:
        return {
            "error": f"{type(error).__name__}: {error}",
            "traceback": traceback.format_exc(),
            "seconds": time.perf_counter() - start,
        }
    return {
        "verdict": score.verdict.value,
        "reward": score.reward,
        "seconds": time.perf_counter() - start,
        "detail": score.detail,
    }


def main() -> None:
    """Serve until the pool closes its end, or dies."""
    requests, answers, memory_bytes, parent = (int(argument) for argument in sys.argv[1:5])
    die_with_parent(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if memory_bytes:
        # The soft limit only: sandboxed children of a code reward set limits of their own.
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, resource.getrlimit(resource.RLIMIT_AS)[1]))
    os.dup2(2, 1)
    while (frame := read_frame(requests)) is not None:
        answer = _answer(pickle.loads(frame))
        write_frame(answers, json.dumps(answer).encode())


if __name__ == "__main__":
    main()
