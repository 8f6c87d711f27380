"""A plan against a cluster: what is refused, in which words, and that following the words helps."""

from __future__ import annotations

import dataclasses
import io
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from nemo_acereason.config.cluster import ClusterConfig, load_cluster
from nemo_acereason.config.known_models import planned_arch
from nemo_acereason.config.load import merge, shipped_conf
from nemo_acereason.config.merge import nest
from nemo_acereason.config.model_arch import ModelArch, model_arch
from nemo_acereason.config.schema import (
    CheckpointConfig,
    DataConfig,
    EvalConfig,
    GrpoStage,
    ModelConfig,
    Plan,
    RolloutConfig,
    SftStage,
    TrainerConfig,
)
from nemo_acereason.errors import ConfigError
from nemo_acereason.launch.capacity import capacity_with, plan_capacity
from nemo_acereason.launch.capacity_checks import check_capacity
from nemo_acereason.launch.capacity_table import show_capacity
from nemo_acereason.launch.fitting_layout import fitting_layout

R1_7B = planned_arch(ModelConfig(path="hf:deepseek-ai/DeepSeek-R1-Distill-Qwen-7B"))
SIXTEEN_HEADS = model_arch(
    {
        "model_type": "qwen2",
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
        "vocab_size": 32000,
        "max_position_embeddings": 131072,
    }
)


def plan_of(**changes: Any) -> Plan:
    """A plan of one stage that works on 16 x 8 H100."""
    settings: dict[str, Any] = {
        "trainer.tensor_parallel": 4,
        "trainer.data_parallel": 32,
        "trainer.recompute": "full",
        "rollout.num_engines": 128,
        "rollout.gpu_memory_utilization": 0.7,
        **changes,
    }
    stage = GrpoStage(max_response_tokens=24576, max_prompt_tokens=2048, num_samples=16, num_steps=100)
    plan = Plan(name="p", stages={"math_24k": stage}, model=ModelConfig(path="hf:x"))
    return changed(plan, settings)


def changed(plan: Plan, settings: dict[str, Any]) -> Plan:
    for key, value in settings.items():
        plan = merge(plan, nest(key.split("."), value), where="test")
    return plan


def cluster_of(**changes: Any) -> ClusterConfig:
    return dataclasses.replace(load_cluster("h100_16x8"), **changes)


def refusal(plan: Plan, arch: ModelArch = R1_7B, cluster: ClusterConfig | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        check_capacity(plan, arch, cluster or cluster_of())
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_plan_that_fits_is_let_through() -> None:
    check_capacity(plan_of(), R1_7B, cluster_of())


def test_heads_that_do_not_divide_are_told_with_the_sizes_that_do() -> None:
    assert refusal(plan_of(**{"trainer.tensor_parallel": 6}), SIXTEEN_HEADS) == (
        "stage math_24k: 16 heads do not divide over tensor_parallel=6; use 1, 2, 4, 8 or 16"
    )


def test_kv_heads_count_in_training_and_are_copied_in_the_engine() -> None:
    assert refusal(plan_of(**{"trainer.tensor_parallel": 14})) == (
        "stage math_24k: 4 KV heads do not divide over tensor_parallel=14; use 1, 2 or 4"
    )
    assert "rollout.tensor_parallel=3; use 1, 2, 4 or 28" in refusal(plan_of(**{"rollout.tensor_parallel": 3}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trainer.pipeline_parallel": 3}, r"28 layers do not divide over pipeline_parallel=3; use 1, 2, 4, 7 or 14"),
        ({"trainer.data_parallel": 64}, r"data 64 = 256 devices, h100_16x8 has 128; use trainer.data_parallel=32$"),
        ({"rollout.tensor_parallel": 4}, r"128 engines of 4 devices, .* use rollout.num_engines=32$"),
        ({"rollout.gpu_memory_utilization": 0.85}, r"on a device of 79.6: engine 67.7, .* use rollout.gpu_memory_util"),
        ({"rollout.gpu_memory_utilization": 0.23}, r"one sequence of 26624 tokens needs 1.4 GiB of keys and values"),
        ({"trainer.recompute": "none", "trainer.rows_per_microbatch": 4}, r"use trainer.recompute=full$"),
        ({"trainer.context_parallel": 2}, r"tensor 4 x context 2 x pipeline 1 x .* use trainer.data_parallel=16$"),
        ({"trainer.rows_per_microbatch": 32}, r"lower trainer.rows_per_microbatch=32$"),
        ({"checkpoint.keep_last": 2000}, r"2002 checkpoints .* has 100; lower checkpoint.keep_last=2000"),
        ({"reward_pool.num_workers": 5000}, r"memory of 2048: reward workers .* lower reward_pool.num_workers"),
    ],
)
def test_what_cannot_work_is_refused_with_the_setting_to_change(changes: dict[str, Any], message: str) -> None:
    assert re.search(message, refusal(plan_of(**changes)))


def test_activations_of_one_long_row_are_spread_over_context_ranks() -> None:
    layout = {"trainer.row_tokens": 262144, "rollout.engine": "scripted"}
    assert refusal(plan_of(**layout)).endswith("use trainer.context_parallel=2 and trainer.data_parallel=16")
    (whole,), (shared,) = (
        plan_capacity(plan_of(**layout, **cut), R1_7B, cluster_of()).stages
        for cut in ({}, {"trainer.context_parallel": 2, "trainer.data_parallel": 16})
    )
    assert shared.memory.activations == pytest.approx(whole.memory.activations / 2, rel=1e-3)
    assert shared.memory.optimizer == pytest.approx(whole.memory.optimizer, rel=1e-3)
    assert shared.num_ranks == whole.num_ranks
    assert shared.num_microbatches > whole.num_microbatches


def test_a_tensor_group_stays_on_a_node() -> None:
    plan = plan_of(**{"trainer.data_parallel": 8, "trainer.tensor_parallel": 16, "rollout.num_engines": 8})
    assert "trainer.tensor_parallel=16 would cross nodes of 8 devices" in refusal(plan, SIXTEEN_HEADS)


def test_a_context_past_the_models_positions_is_refused() -> None:
    arch = dataclasses.replace(R1_7B, max_positions=4096)
    assert "26624 tokens are more than the model's max_position_embeddings=4096" in refusal(plan_of(), arch)


def test_the_stage_that_does_not_fit_is_named_and_one_change_serves_all() -> None:
    plan = plan_of(**{"rollout.gpu_memory_utilization": 0.8})
    plan.stages["math_32k"] = dataclasses.replace(plan.stages["math_24k"], max_response_tokens=32768)
    plan.stages["math_8k"] = dataclasses.replace(plan.stages["math_24k"], max_response_tokens=8192)
    message = refusal(plan)
    assert message.startswith("stage math_24k")
    share = float(message.rpartition("=")[2])
    check_capacity(changed(plan, {"rollout.gpu_memory_utilization": share}), R1_7B, cluster_of())


@pytest.mark.parametrize("cluster", ["h100_16x8", "h100_8"])
def test_following_the_messages_leads_to_a_plan_that_works(cluster: str) -> None:
    plan = plan_of(**{"trainer.recompute": "none", "rollout.gpu_memory_utilization": 0.9})
    for _ in range(10):
        try:
            check_capacity(plan, R1_7B, load_cluster(cluster))
            return
        except ConfigError as error:
            key, value = re.findall(r"use (\S+)=(\S+)$", str(error))[0]
            plan = changed(plan, {key: int(value) if value.isdigit() else value})
    pytest.fail("ten changes were not enough")


def test_a_stage_may_have_a_layout_of_its_own() -> None:
    plan = plan_of()
    plan.stages["math_24k"].trainer = {"data_parallel": 33}
    assert "data 33 = 132 devices" in refusal(plan)


def test_context_holds_what_is_evaluated_after_the_stage() -> None:
    plan = plan_of()
    plan.evaluations["aime"] = EvalConfig(data=DataConfig(source="x"), max_response_tokens=32768)
    (stage,) = plan_capacity(plan, R1_7B, cluster_of()).stages
    assert stage.context == 2048 + 32768
    assert stage.row_tokens == 2048 + 24576


def test_sft_draws_nothing_and_trains() -> None:
    plan = plan_of()
    plan.stages = {"sft": SftStage(max_response_tokens=16384, sequences_per_step=256, num_steps=10)}
    (stage,) = plan_capacity(plan, R1_7B, cluster_of()).stages
    assert (stage.time.generate, stage.time.verify, stage.time.refit) == (0.0, 0.0, 0.0)
    assert stage.time.train > 1
    assert stage.num_tokens == pytest.approx(256 * (200 + 0.4 * 16384), rel=1e-3)


def test_engine_and_trainer_that_take_turns_need_the_larger_of_both() -> None:
    beside = plan_of(**{"rollout.gpu_memory_utilization": 0.85})
    with pytest.raises(ConfigError, match=r"GiB on a device of 79\.6: engine 67\.7"):
        check_capacity(beside, R1_7B, cluster_of())
    by_turns = plan_of(**{"rollout.gpu_memory_utilization": 0.85, "rollout.sleep_level": 2})
    check_capacity(by_turns, R1_7B, cluster_of())
    (stage,) = plan_capacity(by_turns, R1_7B, cluster_of()).stages
    (other,) = plan_capacity(beside, R1_7B, cluster_of()).stages
    assert stage.at_worst == stage.in_turns < other.at_worst
    assert stage.parked == stage.memory.weights + stage.memory.optimizer
    assert stage.time.refit > other.time.refit, "moving out and in takes its time"


def test_the_engine_alone_may_be_too_large() -> None:
    plan = plan_of(**{"rollout.gpu_memory_utilization": 1.0, "rollout.sleep_level": 2})
    with pytest.raises(ConfigError, match=r"engine 79\.6, the trainer's workspace .*; use rollout\.gpu_memory_util"):
        check_capacity(plan, R1_7B, cluster_of())


def test_a_copy_of_the_model_lies_within_a_node() -> None:
    plan = plan_of(**{"trainer.tensor_parallel": 4, "trainer.pipeline_parallel": 4, "trainer.data_parallel": 8})
    with pytest.raises(
        ConfigError, match=r"tensor 4 x pipeline 4 = 16 devices hold one copy of the model; it must lie"
    ):
        check_capacity(plan, R1_7B, cluster_of())


def test_engines_on_nodes_of_their_own_leave_the_trainer_its_memory_and_fewer_nodes() -> None:
    apart = {"rollout.nodes": 8, "rollout.num_engines": 64, "rollout.gpu_memory_utilization": 0.9}
    with pytest.raises(
        ConfigError, match=r"= 128 devices, h100_16x8 has 64 besides the engines; use trainer\.data_par"
    ):
        check_capacity(plan_of(**apart), R1_7B, cluster_of())
    halved = plan_of(**apart, **{"trainer.data_parallel": 16})
    check_capacity(halved, R1_7B, cluster_of())
    (stage,) = plan_capacity(halved, R1_7B, cluster_of()).stages
    assert "engine" not in stage.device_items
    assert stage.num_nodes(8) == 16
    with pytest.raises(ConfigError, match=r"100 engines of 1 devices, h100_16x8 has 64 for them"):
        check_capacity(
            plan_of(**{**apart, "rollout.num_engines": 100, "trainer.data_parallel": 16}), R1_7B, cluster_of()
        )
    with pytest.raises(ConfigError, match=r"rollout\.nodes=16 leaves none of the 16 nodes to the trainer"):
        check_capacity(plan_of(**{**apart, "rollout.nodes": 16}), R1_7B, cluster_of())


def test_engines_stand_only_where_the_trainer_does() -> None:
    few = {
        "trainer.data_parallel": 4,
        "rollout.num_engines": 64,
        "rollout.gpu_memory_utilization": 0.5,
    }  # 16 processes, in copies of 4, on 8 nodes
    with pytest.raises(
        ConfigError, match=r"64 engines of 1 devices on the 4 nodes .*use rollout\.num_engines=32, a larg"
    ):
        check_capacity(plan_of(**few), R1_7B, cluster_of())
    check_capacity(plan_of(**{**few, "rollout.num_engines": 32}), R1_7B, cluster_of())


def test_a_copy_over_several_nodes_trains_where_nothing_is_drawn() -> None:
    plan = plan_of(**{"trainer.tensor_parallel": 4, "trainer.pipeline_parallel": 4, "trainer.data_parallel": 1})
    plan.stages = {"sft": SftStage(max_response_tokens=16384, sequences_per_step=256, num_steps=10)}
    plan.rollout = dataclasses.replace(plan.rollout, num_engines=1)
    check_capacity(plan, R1_7B, cluster_of())


def test_a_scripted_engine_takes_no_memory() -> None:
    plan = plan_of(**{"rollout.engine": "scripted"})
    (stage,) = plan_capacity(plan, R1_7B, cluster_of()).stages
    assert stage.engine is None
    assert "engine" not in stage.device_items


def test_g_by_epoch_counts_with_its_mean() -> None:
    plan = plan_of()
    plan.stages["math_24k"] = dataclasses.replace(plan.stages["math_24k"], num_samples_by_epoch=[8, 16])
    (stage,) = plan_capacity(plan, R1_7B, cluster_of()).stages
    assert stage.num_sequences == 128 * 12


def test_known_mean_lengths_of_a_stage_are_taken() -> None:
    cluster = cluster_of()
    cluster.assumptions.mean_response_share_by_stage = {"math_24k": 0.2}
    (stage,) = plan_capacity(plan_of(), R1_7B, cluster).stages
    assert stage.lengths.mean == pytest.approx(0.2 * 24576)


def test_checkpoints_kept_are_those_of_the_rules_and_one_being_written() -> None:
    plan = plan_of()
    plan.checkpoint = CheckpointConfig(keep_last=3, keep_best="aime:avg@8")
    assert plan_capacity(plan, R1_7B, cluster_of()).num_checkpoints == 3 + 1 + 1 + 1


def test_offloaded_optimizer_state_moves_to_the_nodes_memory() -> None:
    plan = plan_of(**{"trainer.optimizer_offload": 1.0})
    capacity = plan_capacity(plan, R1_7B, cluster_of())
    assert capacity.stages[0].memory.optimizer == 0
    # of 16 nodes one holds a sixteenth
    assert capacity.host_items["optimizer in host memory"] == 12 * R1_7B.num_parameters // 16


def test_a_stages_trainer_settings_are_those_of_the_clusters_device() -> None:
    message = refusal(plan_of(**{"trainer.sequence_parallel": True}), cluster=load_cluster("cpu_1"))
    assert message.startswith("stage math_24k: trainer.sequence_parallel=true needs a CUDA device")


def test_on_a_cpu_all_processes_share_the_hosts_memory() -> None:
    plan = Plan(
        stages={"math": GrpoStage(max_response_tokens=96, max_prompt_tokens=48)},
        trainer=TrainerConfig(tensor_parallel=2, dtype="float32", row_tokens=256),
        rollout=RolloutConfig(num_engines=2, kv_cache_gib=0.25),
    )
    arch, cpu = model_arch(shipped_conf("model/tiny_qwen2")), load_cluster("cpu_1")
    check_capacity(plan, arch, cpu)
    plan.rollout.kv_cache_gib = 12.0
    assert "in a node's memory of 24: engines 26.6" in (message := refusal(plan, arch, cpu))
    assert message.endswith("lower rollout.kv_cache_gib or rollout.num_engines")


@pytest.mark.parametrize(("cluster", "devices"), [("h100_8", 8), ("h100_16x8", 128), ("h200_1", 1)])
def test_a_proposed_layout_fits_and_fills_the_cluster(cluster: str, devices: int) -> None:
    arch = R1_7B if devices > 1 else planned_arch(ModelConfig(path="hf:Qwen/Qwen2.5-1.5B"))
    plan, where = plan_of(), load_cluster(cluster)
    settings = fitting_layout(plan, arch, where)
    check_capacity(changed(plan, settings), arch, where)
    (stage,) = capacity_with(plan, settings, arch, where).stages
    assert stage.num_ranks == stage.num_engine_devices == devices


def test_context_parallel_is_proposed_where_nothing_else_fits() -> None:
    longer = {"trainer.row_tokens": 1 << 20, "rollout.engine": "scripted"}
    settings = fitting_layout(plan_of(**longer), R1_7B, load_cluster("h100_8"))
    assert settings["trainer.context_parallel"] > 1
    assert fitting_layout(plan_of(), R1_7B, cluster_of())["trainer.context_parallel"] == 1


def test_state_goes_to_host_memory_only_where_nothing_else_fits() -> None:
    huge = planned_arch(ModelConfig(path="hf:Qwen/Qwen2.5-32B"))
    four = dataclasses.replace(load_cluster("h100_8"), devices_per_node=4)
    assert fitting_layout(plan_of(), huge, four)["trainer.optimizer_offload"] == 1.0
    assert "trainer.optimizer_offload" not in fitting_layout(plan_of(), huge, cluster_of())


def test_no_layout_is_proposed_where_none_fits() -> None:
    huge = planned_arch(ModelConfig(path="hf:Qwen/Qwen2.5-32B"))
    assert fitting_layout(plan_of(), huge, load_cluster("h200_1")) == {}
    assert shown(plan_of(), "h200_1", huge).splitlines()[1:] == [
        "no layout was found that works on h200_1",
        "refused: stage math_24k: tensor 4 x pipeline 1 x data 32 = 128 devices, h200_1 has 1; lower "
        "trainer.tensor_parallel",
    ]


def test_the_papers_7b_spends_most_of_a_step_drawing() -> None:
    """About 80 % of training time is generation [A 3.2.2], on 128 H100 with veRL and vLLM 0.7.3."""
    (stage,) = plan_capacity(plan_of(**{"trainer.recompute": "none"}), R1_7B, cluster_of()).stages
    assert 0.7 < stage.time.generate / stage.time.total < 0.92


def shown(plan: Plan, cluster: str, arch: ModelArch = R1_7B) -> str:
    text = io.StringIO()
    try:
        show_capacity(plan, arch, load_cluster(cluster), Console(file=text))
    except ConfigError as error:
        text.write(f"refused: {error}")
    return text.getvalue()


def test_the_tables_show_lengths_memory_time_and_what_was_assumed() -> None:
    text = shown(plan_of(), "h100_16x8")
    assert "trainer TP 4 x PP 1 x DP 32, bfloat16, recompute full; 128 engines of TP 1" in text
    for title in ("Lengths", "GiB on a device", "Seconds of a step"):
        assert title in text
    assert len(re.findall(r"^ math_24k +\S", text, re.MULTILINE)) == 3
    assert "disk: 4 checkpoints of 99.3 GiB" in text
    assert "assumed: mean response 0.4 of the longest" in text
    assert "refused" not in text


def test_a_plan_that_does_not_fit_is_shown_with_a_layout_that_does() -> None:
    text = shown(plan_of(), "h100_8")
    assert "trainer.data_parallel=" in text
    assert text.endswith("h100_8 has 8; use trainer.data_parallel=2")


def test_context_ranks_are_shown_where_there_are_several() -> None:
    text = shown(plan_of(**{"trainer.context_parallel": 2, "trainer.data_parallel": 16}), "h100_16x8")
    assert "trainer TP 4 x CP 2 x PP 1 x DP 16, bfloat16" in text


def test_a_width_of_a_file_holds_every_line_of_the_tables(tmp_path: Path) -> None:
    file = tmp_path / "out.txt"
    with file.open("w") as out:
        show_capacity(plan_of(), R1_7B, load_cluster("h100_16x8"), Console(file=out))
    tables = [line for line in file.read_text().splitlines() if line.startswith(" ")]
    assert max(map(len, tables)) <= 120
    assert "…" not in file.read_text()
