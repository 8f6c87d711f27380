"""The peer's side of vs_trl.py: TRL's GRPO trainer on a JSON description of the work.

Runs in .venv-trl and imports nothing of ours; prints one JSON line with seconds and response tokens of each step after
the first.
"""

import itertools
import json
import sys
import time

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import GRPOConfig, GRPOTrainer


def main() -> None:
    work = json.loads(sys.argv[1])
    torch.set_num_threads(work["num_threads"])
    marks: list[float] = []
    num_tokens: list[int] = []

    def reward(completions: list[str], completion_ids: list[list[int]], **_: object) -> list[float]:
        num_tokens.append(sum(len(ids) for ids in completion_ids))
        return [float(len(text) % 2) for text in completions]

    class Clock(TrainerCallback):
        def on_step_begin(self, *_: object, **__: object) -> None:
            if not marks:
                marks.append(time.perf_counter())

        def on_step_end(self, *_: object, **__: object) -> None:
            marks.append(time.perf_counter())

    batch = work["prompts_per_step"] * work["num_samples"]
    config = GRPOConfig(
        output_dir=work["scratch"],
        per_device_train_batch_size=batch // work["accumulation"],
        gradient_accumulation_steps=work["accumulation"],
        num_generations=work["num_samples"],
        max_completion_length=work["max_tokens"],
        max_steps=work["num_steps"],
        temperature=1.0,
        top_k=0,
        beta=0.0,
        num_iterations=1,
        learning_rate=1e-5,
        bf16=False,
        use_cpu=True,
        gradient_checkpointing=False,
        save_strategy="no",
        report_to="none",
        logging_steps=10_000,
        disable_tqdm=True,
        shuffle_dataset=False,
    )
    trainer = GRPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(work["model"], dtype=torch.float32),
        processing_class=AutoTokenizer.from_pretrained(work["model"]),
        reward_funcs=reward,
        args=config,
        train_dataset=Dataset.from_list([{"prompt": prompt} for prompt in work["prompts"]]),
        callbacks=[Clock()],
    )
    trainer.train()
    seconds = [later - earlier for earlier, later in itertools.pairwise(marks)]
    print(json.dumps({"seconds": seconds[1:], "tokens": num_tokens[1:]}))


if __name__ == "__main__":
    main()
