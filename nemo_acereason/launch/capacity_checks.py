"""What of a plan cannot work on a cluster, and the setting to change: devices, memory, disk. Computes no capacity."""

from __future__ import annotations

import math

from nemo_acereason.config.cluster import GIB, TIB, ClusterConfig
from nemo_acereason.config.model_arch import ModelArch
from nemo_acereason.config.schema import GrpoStage, Plan
from nemo_acereason.errors import ConfigError
from nemo_acereason.launch.capacity import EngineMemory, PlanCapacity, StageCapacity, plan_capacity, rank_nodes
from nemo_acereason.launch.even_layout import listed, uneven
from nemo_acereason.parallel.mesh import Mesh

_MOST_UTILIZATION = 0.9
"""Of a device's memory to an engine, in a layout that is proposed."""


def check_capacity(plan: Plan, arch: ModelArch, cluster: ClusterConfig) -> None:
    """Refuse a plan that cannot work on a cluster, before anything is taken.

    Raises:
        ConfigError: the stage, what does not fit, and the setting to change.
    """
    check_computed(plan_capacity(plan, arch, cluster), plan, arch, cluster)


def check_computed(capacity: PlanCapacity, plan: Plan, arch: ModelArch, cluster: ClusterConfig) -> None:
    """As :func:`check_capacity`, of a capacity that is known."""
    for stage in capacity.stages:
        draws = isinstance(plan.stages[stage.name], GrpoStage) or bool(plan.evaluations)
        _check_devices(stage, cluster, draws=draws)
        if stage.engine:
            _check_engine_room(stage, stage.engine)
        if cluster.device == "gpu":
            _check_device_memory(stage, capacity, arch, cluster)
        if stage.context > arch.max_positions:
            raise ConfigError(
                f"the longest prompt and response of {stage.context} tokens are more than the model's "
                f"max_position_embeddings={arch.max_positions}; lower max_response_tokens, or raise it by "
                "model.config_changes"
            )
    _check_host(capacity, cluster)
    if capacity.disk > cluster.shared_disk_tib * TIB:
        raise ConfigError(
            f"{capacity.num_checkpoints} checkpoints of {capacity.checkpoint / GIB:.1f} GiB need "
            f"{capacity.disk / TIB:.2f} TiB, {cluster.name} has {cluster.shared_disk_tib:g}; "
            f"lower checkpoint.keep_last={plan.checkpoint.keep_last}, or free space"
        )


def engine_share(stage: StageCapacity, cluster: ClusterConfig) -> float:
    """Of a device, what the trainer leaves to an engine, in whole hundredths."""
    if stage.rollout.nodes:
        return _MOST_UTILIZATION
    trainer = 0 if stage.rollout.sleep_level else stage.memory.at_work
    free = cluster.device_memory_gib * GIB - trainer - stage.workspace
    return min(_MOST_UTILIZATION, int(100 * free / (cluster.device_memory_gib * GIB)) / 100)


def _check_devices(stage: StageCapacity, cluster: ClusterConfig, *, draws: bool) -> None:
    trainer, rollout, have = stage.trainer, stage.rollout, cluster.num_devices
    axes = {
        "tensor": trainer.tensor_parallel,
        "context": trainer.context_parallel,
        "pipeline": trainer.pipeline_parallel,
    }
    model_parallel = math.prod(axes.values())
    have -= rollout.nodes * cluster.devices_per_node
    if have <= 0:
        raise ConfigError(
            f"stage {stage.name}: rollout.nodes={rollout.nodes} leaves none of the {cluster.nodes} nodes to the "
            "trainer; lower it"
        )
    if stage.num_ranks > have:
        fits = have // model_parallel
        change = (
            f"use trainer.data_parallel={fits}"
            if fits
            else f"lower {listed([f'trainer.{axis}_parallel' for axis, size in axes.items() if size > 1])}"
        )
        cut = " x ".join(f"{axis} {size}" for axis, size in axes.items() if size > 1 or axis != "context")
        raise ConfigError(
            f"stage {stage.name}: {cut} x data {trainer.data_parallel} = {stage.num_ranks} devices, {cluster.name} has "
            f"{have}{' besides the engines' if rollout.nodes else ''}; {change}"
        )
    have = rollout.nodes * cluster.devices_per_node or have
    if stage.engine and rollout.tensor_parallel <= cluster.devices_per_node and stage.num_engine_devices > have:
        raise ConfigError(
            f"stage {stage.name}: {rollout.num_engines} engines of {rollout.tensor_parallel} devices, {cluster.name} "
            f"has {have}{' for them' if rollout.nodes else ''}; use "
            f"rollout.num_engines={max(1, have // rollout.tensor_parallel)}"
        )
    for key, size in (
        ("trainer.tensor_parallel", trainer.tensor_parallel),
        ("rollout.tensor_parallel", rollout.tensor_parallel),
    ):
        if size > cluster.devices_per_node or (cluster.nodes > 1 and cluster.devices_per_node % size):
            raise ConfigError(
                f"stage {stage.name}: {key}={size} would cross nodes of {cluster.devices_per_node} devices, and every "
                f"layer wait for the network; use a divisor of {cluster.devices_per_node}"
            )
    if not (stage.engine and draws) or rollout.nodes or cluster.nodes == 1:
        return
    if cluster.devices_per_node % model_parallel:
        cut = " x ".join(f"{axis} {size}" for axis, size in axes.items() if size > 1)
        raise ConfigError(
            f"stage {stage.name}: {cut} = {model_parallel} devices hold one copy of the model; it must lie within a "
            f"node of {cluster.devices_per_node}, whose engines take their weights from it; use sizes whose product "
            f"divides {cluster.devices_per_node}, or give the engines nodes of their own by rollout.nodes"
        )
    used = rank_nodes(trainer, rollout, cluster.devices_per_node)
    if stage.num_engine_devices > used * cluster.devices_per_node:
        most = used * cluster.devices_per_node // rollout.tensor_parallel
        raise ConfigError(
            f"stage {stage.name}: {rollout.num_engines} engines of {rollout.tensor_parallel} devices on the {used} "
            f"nodes that {stage.num_ranks} trainer processes take; use rollout.num_engines={most}, a larger "
            "trainer.data_parallel, or give them nodes of their own by rollout.nodes"
        )


def _check_engine_room(stage: StageCapacity, engine: EngineMemory) -> None:
    if engine.num_sequences(stage.context) >= 1:
        return
    raise ConfigError(
        f"stage {stage.name}: one sequence of {stage.context} tokens needs "
        f"{engine.kv_per_token * stage.context / GIB:.1f} GiB of keys and values, the engine has "
        f"{max(engine.kv_room, 0) / GIB:.1f} beside {engine.weights / GIB:.1f} of weights; raise "
        "rollout.gpu_memory_utilization (on a CPU rollout.kv_cache_gib) or "
        f"rollout.tensor_parallel={stage.rollout.tensor_parallel}"
    )


def _check_device_memory(stage: StageCapacity, capacity: PlanCapacity, arch: ModelArch, cluster: ClusterConfig) -> None:
    items = dict(stage.device_items)
    have = cluster.device_memory_gib * GIB
    if stage.at_worst <= have:
        return
    if stage.rollout.sleep_level and stage.engine:
        if stage.is_engine_largest:
            items = {"engine": stage.engine.total, "the trainer's workspace": stage.workspace}
        else:
            items["engine"] = stage.engine.asleep
    largest = sorted(items.items(), key=lambda item: -item[1])
    listed = ", ".join(f"{what} {size / GIB:.1f}" for what, size in largest if size > 0.05 * GIB)
    raise ConfigError(
        f"stage {stage.name}: {stage.at_worst / GIB:.1f} GiB on a device of {cluster.device_memory_gib:g}: "
        f"{listed}; {_what_to_lower(stage, capacity, arch, cluster)}"
    )


def _what_to_lower(stage: StageCapacity, capacity: PlanCapacity, arch: ModelArch, cluster: ClusterConfig) -> str:
    """The first change that helps: the engine's cache where enough is left for all stages, else the trainer's items."""
    shares = stage.engine and not stage.rollout.nodes
    if stage.engine and shares and (stage.is_engine_largest or not stage.rollout.sleep_level):
        least = stage.engine.weights + stage.engine.workspace + stage.engine.kv_per_token * stage.context
        share = min(engine_share(one, cluster) for one in capacity.stages)
        if share * cluster.device_memory_gib * GIB >= least:
            return f"use rollout.gpu_memory_utilization={share:.2f}"
    if shares and not stage.rollout.sleep_level and stage.in_turns <= cluster.device_memory_gib * GIB:
        return "use rollout.sleep_level=2"  # each alone fits
    memory, trainer = stage.memory, stage.trainer
    parts = {"activations": memory.activations, "logits": memory.logits, "state": memory.at_rest}
    largest = max(parts, key=lambda part: parts[part])
    if largest == "activations" and trainer.recompute != "full":
        return "use trainer.recompute=full"
    if largest == "activations" and trainer.rows_per_microbatch > 1:
        return f"lower trainer.rows_per_microbatch={trainer.rows_per_microbatch}"
    if largest == "activations" and trainer.data_parallel % 2 == 0:
        context, data = 2 * trainer.context_parallel, trainer.data_parallel // 2
        if trainer.tensor_parallel * context <= cluster.devices_per_node:
            return f"use trainer.context_parallel={context} and trainer.data_parallel={data}"
    if largest == "logits":
        return f"lower trainer.logprob_chunk_tokens={trainer.logprob_chunk_tokens}"
    if not trainer.distributed_optimizer and Mesh.of(trainer).num_copies > 1:
        return "use trainer.distributed_optimizer=true"
    more = next((n for n in (2, 4, 8) if n > trainer.tensor_parallel and not uneven(arch, n, "")), None)
    if more and cluster.devices_per_node % more == 0:
        return f"use trainer.tensor_parallel={more}"
    return f"raise trainer.pipeline_parallel={trainer.pipeline_parallel}"


def _check_host(capacity: PlanCapacity, cluster: ClusterConfig) -> None:
    items = capacity.host_items
    if sum(items.values()) <= cluster.host_memory_gib * GIB:
        return
    largest = max(items, key=lambda item: items[item])
    change = {
        "trainer": "lower trainer.rows_per_microbatch or trainer.row_tokens, or use trainer.recompute=full",
        "engines": "lower rollout.kv_cache_gib or rollout.num_engines",
        "refit buffer": "use a smaller model",
        "reward workers": "lower reward_pool.num_workers",
        "checkpoint being written": "use checkpoint.asynchronous=false",
        "optimizer in host memory": "lower trainer.optimizer_offload",
        "what sleeps": "use rollout.sleep_level=0, or spread the model over more devices",
    }[largest]
    listed = ", ".join(f"{what} {size / GIB:.1f}" for what, size in sorted(items.items(), key=lambda item: -item[1]))
    raise ConfigError(
        f"{sum(items.values()) / GIB:.1f} GiB in a node's memory of {cluster.host_memory_gib:g}: {listed}; {change}"
    )
