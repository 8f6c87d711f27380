"""Does a plan fit a cluster, and how long would it take: each stage's length followed to memory, disk and hours.

Engine and trainer share the devices, side by side or by turns, or have nodes of their own. Looks at no machine and
opens no data. :mod:`nemo_acereason.launch.memory_model` and :mod:`~nemo_acereason.launch.time_model` hold the formulas,
:mod:`~nemo_acereason.launch.capacity_checks` refuses, :mod:`~nemo_acereason.launch.capacity_table` prints.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nemo_acereason.algorithm.pack import row_length
from nemo_acereason.config.cluster import GIB, ClusterConfig
from nemo_acereason.config.load import for_stage
from nemo_acereason.config.model_arch import ModelArch
from nemo_acereason.config.schema import GrpoStage, Plan, RolloutConfig, SftStage, StageConfig, TrainerConfig
from nemo_acereason.config.trainer_rules import check_trainer
from nemo_acereason.errors import ConfigError
from nemo_acereason.launch.even_layout import SCRIPTED, check_even
from nemo_acereason.launch.memory_model import (
    TrainerMemory,
    checkpoint_bytes,
    engine_weight_bytes,
    kv_bytes_per_token,
    largest_trainer_memory,
)
from nemo_acereason.launch.nodes import Ranks
from nemo_acereason.launch.time_model import (
    EngineShape,
    ResponseLengths,
    StepTime,
    generate_seconds,
    refit_seconds,
    sleep_seconds,
    train_seconds,
    verify_seconds,
)
from nemo_acereason.parallel.mesh import Mesh

Layouts = Mapping[str, tuple[TrainerConfig, RolloutConfig]]
"""By stage."""


@dataclass(frozen=True, slots=True)
class EngineMemory:
    """Bytes of one engine on each of its devices; on a CPU of all its processes."""

    weights: int
    workspace: int
    kv_room: int
    """What is left for keys and values; below 0 where not even the weights fit."""
    kv_per_token: int

    @property
    def total(self) -> int:
        """All that the engine takes."""
        return self.weights + self.workspace + max(self.kv_room, 0)

    @property
    def asleep(self) -> int:
        """What stays where its weights and cache leave."""
        return self.workspace

    def num_sequences(self, tokens: float) -> int:
        """Sequences of so many tokens that the room holds."""
        return max(0, int(self.kv_room // (self.kv_per_token * tokens)))


@dataclass(frozen=True, slots=True)
class StageCapacity:
    """What follows from one stage's lengths and layout."""

    name: str
    num_steps: int
    """At most; rules and epochs may end a stage before."""
    trainer: TrainerConfig
    rollout: RolloutConfig
    context: int
    """Positions of the engine: the longest prompt and response of the stage and of what is evaluated after it."""
    row_tokens: int
    num_sequences: int
    """Of one step."""
    num_tokens: int
    """Of one step, on average."""
    num_microbatches: int
    """Of one step on one data rank."""
    lengths: ResponseLengths
    memory: TrainerMemory
    """Of the trainer rank that needs most."""
    workspace: int
    """Of a trainer rank, besides."""
    engine: EngineMemory | None
    """None: a scripted engine."""
    num_at_once: int
    """Sequences that one engine draws together."""
    time: StepTime

    @property
    def num_ranks(self) -> int:
        """Trainer processes."""
        return Mesh.of(self.trainer).num_ranks

    @property
    def num_engine_devices(self) -> int:
        """Devices of all engines."""
        return self.rollout.tensor_parallel * self.rollout.num_engines

    def num_nodes(self, devices_per_node: int) -> int:
        """Nodes that trainer and engines want together."""
        return _shared_nodes(self.trainer, self.rollout, devices_per_node) + self.rollout.nodes

    @property
    def device_items(self) -> dict[str, int]:
        """Bytes on one device of the trainer at the worst moment, by what they are for."""
        engine = {"engine": self.engine.total} if self.engine and not self.rollout.nodes else {}
        memory = self.memory
        return {
            **engine,
            "weights": memory.weights,
            "gradients": memory.gradients,
            "optimizer": memory.optimizer,
            "activations": memory.activations,
            "logits": memory.logits,
            "workspace": self.workspace,
        }

    @property
    def in_turns(self) -> int:
        """Bytes on one device at the worst moment, where engine and trainer sleep while the other works."""
        return max(self._training_bytes, self._drawing_bytes)

    @property
    def at_worst(self) -> int:
        """Bytes on one device at the worst moment."""
        return self.in_turns if self.rollout.sleep_level else sum(self.device_items.values())

    @property
    def is_engine_largest(self) -> bool:
        """Taking turns, the engine needs more than the trainer."""
        return bool(self.rollout.sleep_level) and self._drawing_bytes > self._training_bytes

    @property
    def parked(self) -> int:
        """Bytes of one trainer rank, and of one engine process, that wait in host memory while they sleep."""
        return _parked(self.rollout, self.memory, self.engine)

    @property
    def _training_bytes(self) -> int:
        return self.workspace + self.memory.at_work + (self.engine.asleep if self.engine else 0)

    @property
    def _drawing_bytes(self) -> int:
        return self.workspace + (self.engine.total if self.engine else 0)

    @property
    def hours(self) -> float:
        """Of all its steps, at most."""
        return self.num_steps * self.time.total / 3600


def _parked(rollout: RolloutConfig, memory: TrainerMemory, engine: EngineMemory | None) -> int:
    if not rollout.sleep_level:
        return 0
    return memory.weights + memory.optimizer + (engine.weights if engine and rollout.sleep_level == 1 else 0)


def _shared_nodes(trainer: TrainerConfig, rollout: RolloutConfig, devices_per_node: int) -> int:
    """Nodes of a job, without those that engines have alone."""
    engines = 0 if rollout.nodes else rollout.tensor_parallel * rollout.num_engines
    return -(-max(Mesh.of(trainer).num_ranks, engines) // devices_per_node)


def rank_nodes(trainer: TrainerConfig, rollout: RolloutConfig, devices_per_node: int) -> int:
    """Nodes of a job that have trainer ranks, in whole copies of the model where they fit; these judge, too."""
    number = Mesh.of(trainer).num_ranks
    ranks = Ranks(number, number // trainer.data_parallel, devices_per_node)
    return -(-number // ranks.on_a_node(_shared_nodes(trainer, rollout, devices_per_node)))


@dataclass(frozen=True, slots=True)
class PlanCapacity:
    """All stages, and what they share."""

    stages: tuple[StageCapacity, ...]
    num_checkpoints: int
    """On disk at once: those kept, and one being written."""
    checkpoint: int
    """Bytes of one."""
    host_items: Mapping[str, int]
    """Bytes of one node's memory, by what they are for."""

    @property
    def disk(self) -> int:
        """Bytes of all checkpoints."""
        return self.num_checkpoints * self.checkpoint


def plan_capacity(plan: Plan, arch: ModelArch, cluster: ClusterConfig) -> PlanCapacity:
    """Follow every stage's lengths to its memory and time; nothing is refused but what has no answer.

    Raises:
        ConfigError: a layout that does not cut the model evenly.
    """
    return capacity_of(plan, stage_layouts(plan), arch, cluster)


def capacity_with(plan: Plan, settings: Mapping[str, Any], arch: ModelArch, cluster: ClusterConfig) -> PlanCapacity:
    """The same with ``trainer.`` and ``rollout.`` settings for all stages, as they are proposed."""
    return capacity_of(plan, changed(stage_layouts(plan), settings), arch, cluster)


def stage_layouts(plan: Plan) -> Layouts:
    """Of each stage, with its own settings in place of the general ones."""
    owns = {name: for_stage(plan, name) for name in plan.stages}
    return {name: (own.trainer, own.rollout) for name, own in owns.items()}


def capacity_of(plan: Plan, layouts: Layouts, arch: ModelArch, cluster: ClusterConfig) -> PlanCapacity:
    """As :func:`plan_capacity`, of layouts that are known."""
    stages = tuple(_stage_capacity(plan, name, *layout, arch, cluster) for name, layout in layouts.items())
    rules = plan.checkpoint
    kept = rules.keep_last + len(plan.stages) + bool(rules.keep_best)
    return PlanCapacity(
        stages=stages,
        num_checkpoints=kept + 1,
        checkpoint=checkpoint_bytes(arch, plan.trainer.dtype),
        host_items=_host_items(plan, arch, cluster, stages),
    )


def changed(layouts: Layouts, settings: Mapping[str, Any]) -> Layouts:
    """All stages with these settings, whatever they say for themselves."""
    trainer = {key.removeprefix("trainer."): one for key, one in settings.items() if key.startswith("trainer.")}
    rollout = {key.removeprefix("rollout."): one for key, one in settings.items() if key.startswith("rollout.")}
    return {
        name: (dataclasses.replace(of_trainer, **trainer), dataclasses.replace(of_rollout, **rollout))
        for name, (of_trainer, of_rollout) in layouts.items()
    }


def _stage_capacity(
    plan: Plan,
    name: str,
    trainer: TrainerConfig,
    rollout: RolloutConfig,
    arch: ModelArch,
    cluster: ClusterConfig,
) -> StageCapacity:
    stage, assumed = plan.stages[name], cluster.assumptions
    check_even(name, arch, trainer, rollout)
    try:
        check_trainer(trainer, arch, has_cuda=cluster.device == "gpu")
    except ConfigError as error:
        raise ConfigError(f"stage {name}: {error}") from None
    num_sequences, num_samples = _batch(stage)
    share = assumed.mean_response_share_by_stage.get(name, assumed.mean_response_share)
    lengths = ResponseLengths.of_mean(stage.max_response_tokens, share)
    prompt = min(assumed.mean_prompt_tokens, stage.max_prompt_tokens)
    row_tokens = trainer.row_tokens or row_length(stage.max_prompt_tokens + stage.max_response_tokens)
    microbatch_tokens = row_tokens * trainer.rows_per_microbatch
    num_tokens = num_sequences * (prompt + lengths.mean)
    # interleaved pipelines take them in rounds
    round_size = trainer.pipeline_parallel if trainer.virtual_pipeline > 1 else 1
    rounds = -(-int(num_tokens) // (microbatch_tokens * trainer.data_parallel * round_size))
    num_microbatches = max(1, rounds) * round_size
    is_gpu = cluster.device == "gpu"
    memory = largest_trainer_memory(
        arch,
        trainer,
        microbatch_tokens=microbatch_tokens,
        num_microbatches=num_microbatches,
        is_cuda=is_gpu,
    )
    context = _context(plan, stage)
    engine = None if rollout.engine == SCRIPTED else _engine_memory(arch, trainer, rollout, cluster)
    dtype = _engine_dtype(trainer, rollout)
    num_at_once = rollout.max_num_seqs
    if engine:
        before = lengths.mean_square / (2 * lengths.mean)
        num_at_once = max(1, min(num_at_once, engine.num_sequences(prompt + before)))
    drawing = verifying = refitting = 0.0
    if isinstance(stage, GrpoStage):
        per_engine = -(-num_sequences // rollout.num_engines)
        num_at_once = min(num_at_once, per_engine)
        if engine:
            drawing = generate_seconds(
                cluster,
                EngineShape(arch, rollout.tensor_parallel, dtype, num_at_once),
                lengths,
                num_sequences=per_engine,
                num_samples=num_samples,
            )
        workers = plan.reward_pool.num_workers * rank_nodes(trainer, rollout, cluster.devices_per_node)
        verifying = verify_seconds(
            cluster, stage.domain, num_samples=num_sequences, num_workers=workers, drawing=drawing
        )
        refitting = refit_seconds(cluster, arch, trainer, rollout, dtype=dtype)
        if is_gpu:
            refitting += sleep_seconds(cluster, _parked(rollout, memory, engine))
    training = train_seconds(
        cluster,
        arch,
        trainer,
        num_tokens=num_tokens,
        num_sequences=num_sequences,
        mean_square=lengths.mean_square + 2 * prompt * lengths.mean + prompt**2,
        num_microbatches=num_microbatches,
    )
    return StageCapacity(
        name=name,
        num_steps=stage.num_steps,
        trainer=trainer,
        rollout=rollout,
        context=context,
        row_tokens=row_tokens,
        num_sequences=num_sequences,
        num_tokens=int(num_tokens),
        num_microbatches=num_microbatches,
        lengths=lengths,
        memory=memory,
        workspace=int(assumed.trainer_workspace_gib * GIB),
        engine=engine,
        num_at_once=num_at_once,
        time=StepTime(drawing, verifying, training, refitting),
    )


def _batch(stage: StageConfig) -> tuple[int, int]:
    """Sequences of a step, and how many share a prompt; where G grows over epochs, of the mean."""
    if isinstance(stage, SftStage):
        return stage.sequences_per_step, 1
    assert isinstance(stage, GrpoStage)
    by_epoch = stage.num_samples_by_epoch or [stage.num_samples]
    mean = sum(by_epoch) / len(by_epoch)
    return round(stage.prompts_per_step * mean), round(mean)


def _context(plan: Plan, stage: StageConfig) -> int:
    longest = max(one.max_response_tokens for one in plan.stages.values())
    responses = [stage.max_response_tokens] if isinstance(stage, GrpoStage) else []
    if stage.evaluate:
        responses += [one.max_response_tokens or longest for one in plan.evaluations.values()]
    return stage.max_prompt_tokens + max(responses, default=stage.max_response_tokens)


def _engine_dtype(trainer: TrainerConfig, rollout: RolloutConfig) -> str:
    return trainer.dtype if rollout.dtype == "auto" else rollout.dtype


def _engine_memory(
    arch: ModelArch, trainer: TrainerConfig, rollout: RolloutConfig, cluster: ClusterConfig
) -> EngineMemory:
    dtype, tp = _engine_dtype(trainer, rollout), rollout.tensor_parallel
    workspace = int(cluster.assumptions.engine_workspace_gib * GIB)
    kv = kv_bytes_per_token(arch, tensor_parallel=tp, dtype=dtype)
    weights = engine_weight_bytes(arch, tensor_parallel=tp, dtype=dtype)
    if cluster.device == "cpu":
        return EngineMemory(weights * tp, workspace * tp, int(rollout.kv_cache_gib * GIB), kv * tp)
    reserved = int(rollout.gpu_memory_utilization * cluster.device_memory_gib * GIB)
    return EngineMemory(weights, workspace, reserved - weights - workspace, kv)


def _host_items(
    plan: Plan, arch: ModelArch, cluster: ClusterConfig, stages: tuple[StageCapacity, ...]
) -> dict[str, int]:
    """Of the node and stage that need most; operating system and file cache are not counted."""
    most = max(stages, key=lambda stage: stage.num_ranks * (stage.memory.at_work + stage.workspace))
    ranks = min(most.num_ranks, cluster.devices_per_node)
    share_of_node = ranks / most.num_ranks
    items = {
        "refit buffer": arch.num_parameters * (4 if plan.trainer.dtype == "float32" else 2),
        "reward workers": int(plan.reward_pool.num_workers * cluster.assumptions.reward_worker_gib * GIB),
    }
    if plan.checkpoint.asynchronous:
        items["checkpoint being written"] = int(share_of_node * checkpoint_bytes(arch, plan.trainer.dtype))
    if cluster.device == "gpu":
        if offloaded := most.trainer.optimizer_offload:
            copies = 1 if most.trainer.distributed_optimizer else Mesh.of(most.trainer).num_copies
            state = arch.num_parameters * (8 if most.trainer.dtype == "float32" else 12) * copies
            items["optimizer in host memory"] = int(share_of_node * state * offloaded)
        if parked := max(min(stage.num_ranks, cluster.devices_per_node) * stage.parked for stage in stages):
            items["what sleeps"] = parked
        return items
    engines = max(_engines_on_a_node(stage, cluster) * stage.engine.total if stage.engine else 0 for stage in stages)
    return {"trainer": ranks * (most.memory.at_work + most.workspace), "engines": engines, **items}


def _engines_on_a_node(stage: StageCapacity, cluster: ClusterConfig) -> int:
    """Of the node that has most, beside trainer ranks."""
    if stage.rollout.nodes:
        return 0
    return -(-stage.rollout.num_engines // rank_nodes(stage.trainer, stage.rollout, cluster.devices_per_node))
