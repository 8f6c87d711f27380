"""The plugin under NeMo 2's own trainer, on a CPU, in its environment (scripts/setup_nemo.sh).

One set of processes runs all jobs of a layout (nemo_work.py), for to import NeMo costs more than most of them.
"""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("nemo.collections.llm", reason="environment nemo: scripts/setup_nemo.sh, then make test")

HERE = Path(__file__).parent
GOLDEN = json.loads((HERE.parent / "golden" / "trainer_steps_cpu.json").read_text())
Layout = tuple[int, int, int]
"""Tensor, pipeline, context."""
Found = dict[Layout, Any]
ALONE: Layout = (1, 1, 1)
LAYOUTS: list[Layout] = [ALONE, (2, 1, 1), (1, 2, 1), (1, 1, 2)]
"""The first one makes the checkpoints that all begin with."""
INTERLEAVED: Layout = (1, 3, 1)
"""With two slices of the stack to each process."""

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    """What nemo_work.py found, by layout."""
    directory = tmp_path_factory.mktemp("nemo")
    return {layout: run_layout(directory, layout) for layout in [*LAYOUTS, INTERLEAVED]}


def run_layout(directory: Path, layout: Layout) -> Any:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", str(math.prod(layout)), str(HERE / "nemo_work.py")]
    name = "_".join(map(str, layout))
    log = directory / f"log_{name}.txt"
    with log.open("wb") as file:  # a file: whoever outlives the run must not hold this process's pipe
        status = subprocess.run(
            [*command, str(directory), *map(str, layout)],
            stdout=file,
            stderr=file,
            stdin=subprocess.DEVNULL,
            timeout=400,
            check=False,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        ).returncode
    assert status == 0, log.read_text()[-6000:]
    return {**json.loads((directory / f"found_{name}.json").read_text()), "log": log.read_text(errors="replace")}


def column(steps: list[dict[str, float]], name: str) -> list[float]:
    return [step[name] for step in steps]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_recorded_batch_has_the_loss_and_gradient_of_our_own_trainer(found: Found, layout: Layout) -> None:
    steps = found[layout]["train"]["recorded"]
    got = [[step["loss"], step["grad_norm"]] for step in steps]
    assert got == [pytest.approx(wanted, rel=1e-5) for wanted in GOLDEN["qwen2_tied"]]
    assert column(steps, "reduced_train_loss") == pytest.approx(column(steps, "loss"))


@pytest.mark.parametrize("layout", LAYOUTS[1:])
@pytest.mark.parametrize("kind", ["sft", "rl"])
def test_stages_do_not_depend_on_the_layout(found: Found, kind: str, layout: Layout) -> None:
    one, other = found[ALONE]["train"][kind], found[layout]["train"][kind]
    for name in ("loss", "grad_norm", "lr"):
        assert column(other, name) == pytest.approx(column(one, name), rel=1e-3, abs=1e-5), name


def test_interleaved_pipeline_trains_and_sends_the_same(found: Found) -> None:
    one, other = found[ALONE]["deep"], found[INTERLEAVED]["deep"]
    assert len(other["steps"]) == 3
    for name in ("loss", "grad_norm", "reward_mean"):
        assert column(other["steps"], name) == pytest.approx(column(one["steps"], name), rel=1e-3, abs=1e-5), name
    assert (other["version"], other["num_tensors"]) == (one["version"], one["num_tensors"]) == (4, 6 * 9 + 3)
    said = found[1, 2, 1]["refused_slices"]
    assert said.startswith("trainer.virtual_pipeline=2 with pipeline_parallel=2; use 1, or three or more")


def test_sft_learns_its_responses(found: Found) -> None:
    loss = column(found[ALONE]["train"]["sft"], "loss")
    assert len(loss) == 3
    assert loss[-1] < loss[0]


def test_rl_reports_rewards_and_sends_the_weights_behind_every_step(found: Found) -> None:
    for layout in LAYOUTS:
        train = found[layout]["train"]
        rewards = column(train["rl"], "reward_mean")
        assert all(0.0 < reward < 1.0 for reward in rewards), "the script answers half of the seeds right"
        assert train["version"] == 4, "the first weights, and those behind each of three steps"
        assert train["num_tensors"] == found[ALONE]["train"]["num_tensors"]


def test_a_stage_goes_on_from_nemo_checkpoint_as_if_never_stopped(found: Found) -> None:
    stopped = found[ALONE]["resume"]["steps"]
    whole = found[ALONE]["train"]["rl"]
    assert len(stopped) == len(whole) == 3
    for name in ("loss", "grad_norm", "reward_mean", "lr", "global_step"):
        assert column(stopped, name) == column(whole, name), name


def test_shipped_recipes_train_one_after_the_other_and_their_end_is_exported(found: Found) -> None:
    chain = found[ALONE]["chain"]
    assert len(chain["sft"]) == len(chain["rl"]) == 2
    assert all(0.0 < reward < 1.0 for reward in column(chain["rl"], "reward_mean"))
    assert chain["num_engines"] == 1, "of the plan's 128 what one host holds"
    assert (chain["rotary_base"], chain["exported_theta"]) == (1e6, 1e6), "the plan changes the model's config"
    assert (chain["recompute"], chain["overlap"]) == ("full", True)
    assert chain["is_export_bit_exact"]


def said_of(found: Found, layout: Layout, stage: str, text: str) -> list[str]:
    """Lines of the leader about a stage, from where ``text`` begins."""
    lines = found[layout]["log"].splitlines()
    return [line[line.index(text) :] for line in lines if f"acereason: stage {stage}: {text}" in line]


def test_what_nemo_host_leaves_out_of_a_plan_is_said(found: Found) -> None:
    assert said_of(found, ALONE, "math_8k", "NeMo's trainer leaves out of its plan ") == [
        "NeMo's trainer leaves out of its plan evaluations; see docs/nemo.md"
    ]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_exit_rule_that_the_first_rank_meets_ends_the_stage_on_all(found: Found, layout: Layout) -> None:
    assert len(found[layout]["train"]["sft"]) == 3, "of 5 steps"
    said = "ends behind step 3: enough: 3 steps seen"
    times = 2 if layout == ALONE else 1  # there it is started again
    assert said_of(found, layout, "sft", "ends behind step 3") == [said] * times


def test_ended_stage_that_is_started_again_takes_no_step(found: Found) -> None:
    assert found[ALONE]["resume"]["steps_behind_the_end"] == 0


def test_stage_ends_with_its_epochs_and_where_nothing_is_left_to_draw(found: Found) -> None:
    assert said_of(found, ALONE, "sft", "ends behind step 2") == ["ends behind step 2: all 1 epochs done"]
    assert column(found[ALONE]["filtered"], "reward_mean") == [1.0, 1.0], "of 3 steps"
    assert said_of(found, ALONE, "math_short", "ends behind") == [
        "ends behind step 2: no prompts left for epoch 1: all 8 are filtered out"
    ]


def test_guard_rails_warn_once_or_stop_before_the_step_is_saved(found: Found) -> None:
    reason = "share of groups without signal 1 over the last step, want less than 0.9"
    assert said_of(found, ALONE, "math_short", "share of groups") == [reason], "of two steps that meet it"
    stopped = found[ALONE]["stopped"]
    assert stopped["said"].startswith(f"step 1 of stage math_short: {reason}; look for the cause")
    assert stopped["checkpoints"] == []
    assert stopped["processes"] == [], "engine and judges have ended too"


def test_newest_checkpoints_and_some_samples_of_saved_steps_are_kept(found: Found) -> None:
    resumed = found[ALONE]["resume"]
    assert resumed["checkpoints"] == ["stage_step=3", "stage_step=3-last"]
    assert [step for step, _ in resumed["samples"]] == [1, 1, 2, 2, 3, 3]
    assert {verdict for _, verdict in resumed["samples"]} == {"correct", "wrong"}


def test_nemo_loggers_and_those_of_the_plan_get_our_metrics_under_their_names(found: Found) -> None:
    resumed = found[ALONE]["resume"]
    shown = resumed["tensorboard"]
    own_loop = {"loss", "grad_norm", "entropy", "reward_mean", "mismatch_kl", "verdict/correct", "temperature", "epoch"}
    assert own_loop <= shown.keys()
    assert len(resumed["csv"]) == 2, "one of each start"
    assert all(own_loop - {"grad_norm"} <= set(columns) for columns in resumed["csv"])
    for name in ("loss", "reward_mean"):
        assert [value for _, value in shown[name]] == pytest.approx(column(resumed["steps"], name)), name


def test_precision_plugin_keeps_float32_main_weights(found: Found) -> None:
    model, optimizer = ["torch.bfloat16"], ["torch.float32"]
    assert found[ALONE]["chain"]["dtypes"] == [[model, optimizer]] * 2, "with NeMo's plugin, and without one"


def test_fp8_of_plugin_or_plan_reaches_model_and_padding_and_is_refused_where_it_cannot_be(found: Found) -> None:
    precision = found[ALONE]["precision"]
    assert precision["multiple"] == {"delayed": 16, "blockwise": 128}
    assert precision["of_plan"] == ["hybrid", "tensorwise", 1024, 1]
    assert re.fullmatch(r"precision of NeMo's model: fp8=hybrid needs Transformer Engine.*", precision["refused"])


@pytest.mark.parametrize(
    ("what", "said"),
    [
        (
            "copy",
            "16 trainer ranks to a copy of the model with num_gpus_per_node=8: .* nodes of their own by rollout.nodes",
        ),
        ("filter", r"stages.math_24k.prompt_filter.keep without a file: .* give stages.math_24k.prompt_filter.file"),
        ("param gather", "trainer.overlap_param_gather=true: .* set it to false"),
        ("run_dir", "run_dir is empty: on several nodes give a directory that all of them see"),
        ("loop", "stages.math_8k.loop=my:loop: .* NeMo's trainer is the loop"),
    ],
)
def test_plan_that_would_train_something_else_is_refused(found: Found, what: str, said: str) -> None:
    assert re.fullmatch(f"{said}.*", found[ALONE]["refused"][what])


@pytest.mark.parametrize("model", ["qwen2_tied", "qwen2_plain", "llama_deep"])
def test_nemo_alone_opens_what_we_write_and_every_weight_comes_back(found: Found, model: str) -> None:
    converted = found[ALONE]["convert"]
    assert converted["imported"] == ["context", "weights"]
    assert converted[model]["difference"] < 1e-4, "logits of NeMo's model and of transformers"
    assert converted[model]["is_bit_exact"]
