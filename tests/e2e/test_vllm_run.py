"""The loop on real vLLM: what stops it, and that it goes on from there as if nothing had happened."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from nemo_acereason.launch.resume import whole_checkpoints
from tests.e2e.commands import HERE, SMALL, Command, assert_same_result, num_steps, reproducible_rows, running


def test_engine_and_trainer_agree_on_every_step(vllm_run: Path) -> None:
    rows = [row for row in reproducible_rows(vllm_run) if "logp_error_max" in row]
    assert len(rows) == 6
    assert max(row["logp_error_max"] for row in rows) < 1e-4
    summary = json.loads((vllm_run / "summary.json").read_text())
    assert summary["max_sampler_trainer_disagreement"] == max(row["logp_error_max"] for row in rows)
    assert summary["is_finished"]


@pytest.mark.timeout(900)
def test_old_weights_and_a_killed_engine_stop_the_run_and_it_goes_on_as_one_never_stopped(
    vllm_run: Path, source_model: Path, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"

    def start(**environment: str) -> Command:
        engine = f"rollout.engine={HERE / 'lying_engine.py'}:build"
        return Command("run", SMALL, "--out", run_dir, "--model", source_model, engine, **environment)

    # refit 1 brings the first weights, 2 those after SFT (step 5), 3 and 4 those after steps 6 and 7
    lied_to = start(LIE_FROM="4")
    ended = lied_to.wait()
    assert ended.status == 3, ended.stderr
    assert re.fullmatch(
        r"acereason: step 8 of stage math_short: sampler and trainer disagree, logp_error_mean = \S+ nats, "
        r"want at most 1e-05; the engine may hold old or wrong weights.*\n",
        ended.stderr,
    )
    assert lied_to.leaves_no_process()
    assert num_steps(run_dir) == 7
    assert whole_checkpoints(run_dir / "checkpoints")[-1].name == "step_000007"
    assert "step 8" in json.loads((run_dir / "summary.json").read_text())["stop_reason"]

    engine_killed = start()
    engine_killed.kill_when(lambda: num_steps(run_dir) >= 9, running("nemo_acereason.rollout.vllm_worker"))
    ended = engine_killed.wait()
    assert ended.status == 4, ended.stderr
    assert len(ended.error_lines) == 1
    assert "the vLLM worker was killed by SIGKILL" in ended.stderr
    assert engine_killed.leaves_no_process()
    assert num_steps(run_dir) < 11

    ended = start().wait()
    assert (ended.status, ended.stderr) == (0, "")
    assert_same_result(run_dir, vllm_run)
