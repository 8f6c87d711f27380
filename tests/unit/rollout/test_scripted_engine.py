from __future__ import annotations

from pathlib import Path

import pytest

from nemo_acereason.config.schema import RolloutConfig
from nemo_acereason.errors import ConfigError, WeightSyncError
from nemo_acereason.records import Prompt, Sampling
from nemo_acereason.resharding.shm_link import SharedMemoryLink
from nemo_acereason.rollout.engine import build_engine
from nemo_acereason.rollout.scripted_engine import ScriptedEngine
from tests.doubles import TensorsAsTrainer, prompt_of, random_weights, write_tiny_model

END = 258  # <|im_end|>


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model"))


def count_up(prompt: Prompt, sample_index: int, seed: int) -> str:
    return f"{prompt.problem}{sample_index}{seed}"


def test_answers_come_from_the_named_function_in_order(model_dir: Path) -> None:
    engine = ScriptedEngine(model_dir, "tests.unit.rollout.test_scripted_engine:count_up")
    drawn = list(engine.generate([prompt_of("a"), prompt_of("b")], Sampling(2, 10), [100, 200]))
    assert [(p, i, sample.text) for p, i, sample in drawn] == [
        (0, 0, "a0100"),
        (0, 1, "a1101"),
        (1, 0, "b0200"),
        (1, 1, "b1201"),
    ]
    assert drawn[0][2].token_ids == (*b"a0100", END)
    assert drawn[0][2].finish_reason == "stop"


def test_samples_take_the_table_in_turn_and_long_answers_are_cut(model_dir: Path) -> None:
    engine = ScriptedEngine(model_dir, {"q": ["yes", "perhaps"]}, logprob=-0.5)
    samples = [sample for _, _, sample in engine.generate([prompt_of("q")], Sampling(3, 4), [0])]
    assert [sample.text for sample in samples] == ["yes", "perh", "yes"]
    assert [sample.finish_reason for sample in samples] == ["stop", "length", "stop"]
    assert samples[1].logprobs == (-0.5,) * 4


def test_refit_is_checked_like_a_real_engines(model_dir: Path) -> None:
    engine, link = ScriptedEngine(model_dir, {"q": "yes"}), SharedMemoryLink()
    weights = random_weights(model_dir, seed=1)
    assert link.push(TensorsAsTrainer(weights), engine).version == 1
    assert next(engine.generate([prompt_of("q")], Sampling(1, 4), [0]))[2].policy_version == 1
    link.close()
    del weights["model.layers.1.self_attn.k_proj.bias"]
    with pytest.raises(WeightSyncError, match=r"model\.layers\.1\.self_attn\.k_proj\.bias did not come"):
        SharedMemoryLink().push(TensorsAsTrainer(weights), ScriptedEngine(model_dir, {"q": "yes"}))


def test_prompt_without_a_script_is_named(model_dir: Path) -> None:
    engine = ScriptedEngine(model_dir, {"q": "yes"})
    with pytest.raises(ConfigError, match="no response to prompt other"):
        next(engine.generate([prompt_of("other")], Sampling(1, 4), [0]))


def build_own(config: RolloutConfig, *, model_dir: Path, **_: object) -> ScriptedEngine:
    return ScriptedEngine(model_dir, {"q": str(config.options["answer"])})


def test_engine_is_chosen_by_config(model_dir: Path, tmp_path: Path) -> None:
    def build(config: RolloutConfig) -> object:
        return build_engine(
            config, model_dir=model_dir, dtype="float32", max_model_len=64, seed=1, log_path=tmp_path / "engine.log"
        )

    scripted = build(RolloutConfig(engine="scripted", options={"responses": {"q": "yes"}}))
    assert isinstance(scripted, ScriptedEngine)
    own = build(RolloutConfig(engine=f"{__name__}:build_own", options={"answer": 7}))
    assert isinstance(own, ScriptedEngine)
    assert next(own.generate([prompt_of("q")], Sampling(1, 4), [0]))[2].text == "7"
    with pytest.raises(ConfigError, match="scripted engine wants responses"):
        build(RolloutConfig(engine="scripted", options={"answers": {}}))
    with pytest.raises(ConfigError, match="the vllm engine takes none"):
        build(RolloutConfig(options={"answers": {}}))
    with pytest.raises(ConfigError, match=r"rollout\.engine='vlm'"):
        build(RolloutConfig(engine="vlm"))
