"""What may change when a run is gone on with, and what may not."""

from __future__ import annotations

from pathlib import Path

import pytest

from nemo_acereason.config.load import load_plan, save_plan
from nemo_acereason.errors import ConfigError
from nemo_acereason.launch.start import _refuse_other_plan


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    save_plan(load_plan("tiny_cpu"), tmp_path / "plan.yaml")
    return tmp_path


@pytest.mark.parametrize(
    "setting",
    [
        "trainer.tensor_parallel=1",
        "rollout.kv_cache_gib=1",
        "reward_pool.num_workers=1",
        "log.loggers=[csv]",
        "checkpoint.every_steps=1",
        "stages.code.guards.max_logp_error=0.1",
    ],
)
def test_layout_engine_workers_logs_and_guards_may_change(run_dir: Path, setting: str) -> None:
    _refuse_other_plan(load_plan("tiny_cpu", [setting]), run_dir)


@pytest.mark.parametrize("setting", ["seed=2", "stages.code.num_steps=1", "trainer.dtype=bfloat16"])
def test_what_decides_results_may_not_and_is_named(run_dir: Path, setting: str) -> None:
    key = setting.rpartition(".")[2].replace("=", ": ")
    with pytest.raises(ConfigError, match=f"a run of another plan: .*you ask for `{key}`"):
        _refuse_other_plan(load_plan("tiny_cpu", [setting]), run_dir)
