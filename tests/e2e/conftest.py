"""Finished runs that several tests look at."""

from __future__ import annotations

from pathlib import Path

import pytest

from nemo_acereason.config.load import load_plan
from nemo_acereason.data.byte_tokenizer import write_byte_tokenizer
from tests.e2e.commands import SCRIPTED, SMALL, run


@pytest.fixture(scope="session")
def scripted_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SFT and two GRPO stages on the real trainer at TP 2, never stopped; the engine answers from a script."""
    run_dir = tmp_path_factory.mktemp("scripted") / "run"
    ended = run("run", SMALL, "--out", run_dir, *SCRIPTED)
    assert ended.status == 0, ended.stderr
    return run_dir


@pytest.fixture(scope="session")
def source_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model as people have them: weights, tokenizer with chat template, generation config."""
    from transformers import GenerationConfig, Qwen2Config, Qwen2ForCausalLM, set_seed

    directory = write_byte_tokenizer(tmp_path_factory.mktemp("model"))
    set_seed(1)
    settings = load_plan(SMALL).model.hf_config
    # wide weights: next tokens are far apart, so that kernels that round differently choose the same one
    model = Qwen2ForCausalLM(Qwen2Config(**settings, initializer_range=0.1, dtype="float32"))
    model.save_pretrained(directory)
    GenerationConfig(temperature=0.6, top_p=0.95, do_sample=True).save_pretrained(directory)
    return directory


@pytest.fixture(scope="session")
def vllm_run(source_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same stages on real vLLM, from a model directory, never stopped."""
    run_dir = tmp_path_factory.mktemp("vllm") / "run"
    ended = run("run", SMALL, "--out", run_dir, "--model", source_model)
    assert ended.status == 0, ended.stderr
    assert ended.stderr == ""
    return run_dir
