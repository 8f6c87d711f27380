"""Our loop against TRL's GRPO trainer on this machine, same work: one JSON line with both rates and the ratio.

    bash scripts/setup_trl.sh && .venv/bin/python benchmarks/vs_trl.py

Same model (random weights, written once), prompts in the same order, group size, response limit, temperature, KL 0, one
update per batch, AdamW, float32, all cores. Both draw until the end token or the limit, so token counts agree up to
sampling; the rate is response tokens (drawn, judged and trained on) per second of whole steps, the first left out.
TRL generates with transformers, its default without a vLLM server, which it does not drive on a CPU.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from nemo_acereason.config.load import shipped_conf
from nemo_acereason.config.schema import (
    DataConfig,
    GrpoStage,
    ModelConfig,
    OptimizerConfig,
    Plan,
    PromptFormat,
    RewardConfig,
    RolloutConfig,
    TrainerConfig,
)
from nemo_acereason.data.byte_tokenizer import write_byte_tokenizer
from nemo_acereason.data.toy_math import problems
from nemo_acereason.launch.start import start
from nemo_acereason.observe.log import read_metrics
from nemo_acereason.records import Prompt, Sample

ROOT = Path(__file__).parents[1]


def even_length(prompt: Prompt, sample: Sample) -> bool:  # noqa: ARG001 - the signature of every reward
    """A reward that random weights earn half the time, as the peer's side has it."""
    return len(sample.text) % 2 == 1


def main() -> None:
    """Run both, print the result."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--prompts-per-step", type=int, default=32)
    parser.add_argument("--num-samples", type=int, default=8)
    parser.add_argument("--max-tokens", type=int, default=256)
    parser.add_argument("--num-steps", type=int, default=5)
    parser.add_argument("--accumulation", type=int, default=1, help="the peer's gradient accumulation: its best here")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        model = write_model(Path(scratch) / "model")
        rows = Path(scratch) / "rows.jsonl"
        count = arguments.prompts_per_step * arguments.num_steps
        texts = [f"{row['problem']}=\n<think>\n" for row in problems(count=count, max_terms=6)]
        rows.write_text("".join(json.dumps({"problem": text, "answer": "0"}) + "\n" for text in texts))
        theirs = run_trl(arguments, model, texts, Path(scratch) / "trl")
        ours = run_ours(arguments, model, rows, Path(scratch) / "ours")
    print(json.dumps({"benchmark": "vs_trl", **vars(arguments), "ours": ours, "trl": theirs,
                      "ratio": round(ours["tokens_per_s"] / theirs["tokens_per_s"], 2)}))  # fmt: skip


def write_model(directory: Path) -> Path:
    """The tiny architecture with random weights, as a Hugging Face directory."""
    write_byte_tokenizer(directory)
    torch.manual_seed(1)
    values = shipped_conf("model/tiny_qwen2")
    config = AutoConfig.for_model(values.pop("model_type"), **values, eos_token_id=258, pad_token_id=256)
    AutoModelForCausalLM.from_config(config).save_pretrained(directory)
    return directory


def one_end_token(directory: Path) -> Path:
    """The same tokenizer without <|endoftext|>: ours would end a response there too, the peer does not."""
    write_byte_tokenizer(directory)
    for file in directory.glob("tokenizer*.json"):
        file.write_text(file.read_text().replace("<|endoftext|>", "<pad>"))
    return directory


def run_ours(arguments: argparse.Namespace, model: Path, rows: Path, run_dir: Path) -> dict[str, float]:
    """Rate of our loop."""
    plan = Plan(
        name="vs_trl",
        model=ModelConfig(path=str(model), tokenizer=str(one_end_token(run_dir.with_name("tokenizer")))),
        prompt=PromptFormat(template="plain"),
        trainer=TrainerConfig(data_parallel=2, dtype="float32", row_tokens=512, rows_per_microbatch=4),
        rollout=RolloutConfig(num_engines=2, kv_cache_gib=0.25),
        stages={
            "grpo": GrpoStage(
                data=DataConfig(source=str(rows), shuffle=False),
                reward=RewardConfig(function=f"{Path(__file__).resolve()}:even_length"),
                optimizer=OptimizerConfig(learning_rate=1e-5),
                num_steps=arguments.num_steps,
                prompts_per_step=arguments.prompts_per_step,
                num_samples=arguments.num_samples,
                max_prompt_tokens=64,
                max_response_tokens=arguments.max_tokens,
                evaluate=False,
            )
        },
    )
    start(plan, run_dir)
    steps, _ = read_metrics(run_dir)
    return rate([row["seconds/step"] for row in steps[1:]], [row["tokens/response"] for row in steps[1:]])


def run_trl(arguments: argparse.Namespace, model: Path, prompts: list[str], scratch: Path) -> dict[str, float]:
    """Rate of the peer, in its own environment."""
    work = {
        "model": str(model), "prompts": prompts, "scratch": str(scratch), "num_threads": os.cpu_count(),
        "prompts_per_step": arguments.prompts_per_step, "num_samples": arguments.num_samples,
        "max_tokens": arguments.max_tokens, "num_steps": arguments.num_steps, "accumulation": arguments.accumulation,
    }  # fmt: skip
    command = [str(ROOT / ".venv-trl/bin/python"), str(ROOT / "benchmarks/trl_grpo.py"), json.dumps(work)]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    if answer.returncode:
        sys.exit(f"the peer failed: {answer.stderr.splitlines()[-1]}")
    measured = json.loads(answer.stdout.splitlines()[-1])
    return rate(measured["seconds"], measured["tokens"])


def rate(seconds: list[float], num_tokens: list[float]) -> dict[str, float]:
    """Totals and tokens per second of the measured steps."""
    return {
        "seconds": round(sum(seconds), 2),
        "tokens": sum(num_tokens),
        "tokens_per_s": round(sum(num_tokens) / sum(seconds), 1),
    }


if __name__ == "__main__":
    main()
