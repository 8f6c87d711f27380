"""An exported model is one that others open: same tokens in transformers and in vLLM."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from nemo_acereason.data.toy_math import problems
from tests.e2e.commands import run

NUM_TOKENS = 32
VLLM = """
import json, sys
from vllm import LLM, SamplingParams
prompts = [{"prompt_token_ids": ids} for ids in json.loads(sys.argv[2])]
model = LLM(sys.argv[1], dtype="float32", max_model_len=128, max_num_seqs=16, kv_cache_memory_bytes=64 << 20,
            gpu_memory_utilization=0.1, disable_log_stats=True)
greedy = SamplingParams(temperature=0, max_tokens=int(sys.argv[3]), ignore_eos=True)
print(json.dumps([list(answer.outputs[0].token_ids) for answer in model.generate(prompts, greedy, use_tqdm=False)]))
"""


@pytest.fixture(scope="module")
def exported(vllm_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("export") / "hf"
    ended = run("export", vllm_run, "--to", directory)
    assert (ended.status, ended.stdout, ended.stderr) == (0, f"wrote {directory}\n", "")
    return directory


@pytest.mark.timeout(600)
def test_exported_model_gives_the_same_greedy_tokens_in_transformers_and_vllm(exported: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(exported)
    prompts = [
        tokenizer.encode(row["problem"] + "=\n<think>\n", add_special_tokens=False) for row in problems(count=10)
    ]
    model = AutoModelForCausalLM.from_pretrained(exported)
    expected = []
    for prompt in prompts:
        ids = torch.tensor([prompt])
        for _ in range(NUM_TOKENS):
            with torch.no_grad():
                ids = torch.cat([ids, model(ids).logits[:, -1:].argmax(-1)], dim=1)
        expected.append(ids[0, len(prompt) :].tolist())
    assert len({tuple(tokens) for tokens in expected}) > 1, "ten answers all alike would show little"

    command = [sys.executable, "-c", VLLM, str(exported), json.dumps(prompts), str(NUM_TOKENS)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
    answer = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False)
    assert answer.returncode == 0, answer.stderr[-3000:]
    assert json.loads(answer.stdout.splitlines()[-1]) == expected


def test_what_makes_a_directory_a_model_is_exported_with_the_weights(exported: Path, source_model: Path) -> None:
    from transformers import AutoTokenizer, GenerationConfig

    tokenizer, source = AutoTokenizer.from_pretrained(exported), AutoTokenizer.from_pretrained(source_model)
    chat = [{"role": "user", "content": "1+1"}]
    rendered = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert "1+1" in rendered
    assert rendered == source.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert GenerationConfig.from_pretrained(exported).top_p == 0.95
    assert json.loads((exported / "config.json").read_text())["dtype"] == "float32"


def test_export_to_a_directory_that_exists_is_refused(exported: Path, vllm_run: Path) -> None:
    before = {file.name: file.stat().st_mtime_ns for file in exported.iterdir()}
    ended = run("export", vllm_run, "--to", exported)
    assert ended.status == 2
    assert ended.error_lines == [f"acereason: --to {exported} exists; want a directory that does not"]
    assert {file.name: file.stat().st_mtime_ns for file in exported.iterdir()} == before
