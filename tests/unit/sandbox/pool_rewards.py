"""Reward functions that behave badly in every way the pool must survive; imported by its workers."""

# ruff: noqa: ARG001 - the arguments are the pool's contract
from __future__ import annotations

import ctypes
import os
import sys
import time
from pathlib import Path

from nemo_acereason.records import Prompt, Sample, Score, Verdict


def echo(prompt: Prompt, sample: Sample) -> bool:
    return sample.text == prompt.reference


def number(prompt: Prompt, sample: Sample, *, scale: float = 1.0) -> float:
    return float(sample.text) * scale


def by_name(prompt: Prompt, sample: Sample, *, directory: str = "") -> Score | bool | float:
    """Does what the response says."""
    match sample.text:
        case "sleep":
            time.sleep(600)
        case "c loop":
            return bool(10 ** (10**9))  # one call into C that no signal handler interrupts
        case "memory":
            return len(bytearray(64 << 30)) > 0
        case "exit":
            os._exit(7)
        case "segfault":
            ctypes.string_at(0)
        case "raise":
            raise ValueError("no such thing")
        case "print":
            print("noise on standard output" * 100)
        case "die once":
            mark = Path(directory) / "died"
            if not mark.exists():
                mark.touch()
                os._exit(9)
        case "count":
            with (Path(directory) / "calls").open("a") as calls:
                calls.write("x")
        case "nan":
            return float("nan")
        case "text":
            return "correct"  # type: ignore[return-value]
        case "modules":
            heavy = sorted({"torch", "vllm", "transformers", "megatron"} & set(sys.modules))
            return Score.of(Verdict.CORRECT, detail=",".join(heavy))
        case "slow":
            time.sleep(0.05)
    return True
