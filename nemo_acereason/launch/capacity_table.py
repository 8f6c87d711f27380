"""``acereason plan --cluster``: what :mod:`nemo_acereason.launch.capacity` found, as tables. Computes nothing."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table

from nemo_acereason.config.cluster import GIB, TIB, ClusterConfig
from nemo_acereason.config.model_arch import ModelArch
from nemo_acereason.config.schema import Plan
from nemo_acereason.errors import ConfigError
from nemo_acereason.launch.capacity import PlanCapacity, StageCapacity, capacity_with, plan_capacity
from nemo_acereason.launch.capacity_checks import check_computed
from nemo_acereason.launch.fitting_layout import fitting_layout
from nemo_acereason.launch.show import file_console


def show_capacity(plan: Plan, arch: ModelArch, cluster: ClusterConfig, console: Console | None = None) -> None:
    """Print what each stage would need and take on a cluster, then refuse what cannot work.

    Raises:
        ConfigError: the plan cannot work there; a layout that would is printed before, if there is one.
    """
    console = file_console(console or Console())

    def say(line: str) -> None:
        console.print(line, highlight=False, soft_wrap=True)

    say(_cluster_line(cluster))
    capacity = plan_capacity(plan, arch, cluster)
    try:
        check_computed(capacity, plan, arch, cluster)
    except ConfigError:
        settings = fitting_layout(plan, arch, cluster) if cluster.device == "gpu" else {}
        if settings:
            # figures of a layout that cannot be would only mislead
            say("the plan's own layout does not work there; with one that does, as below:")
            say("  " + " ".join(f"{key}={value}" for key, value in settings.items()))
            capacity = capacity_with(plan, settings, arch, cluster)
        elif cluster.device == "gpu":
            say(f"no layout was found that works on {cluster.name}")
        if all(stage.num_ranks <= cluster.num_devices for stage in capacity.stages):
            _say_capacity(capacity, cluster, console)
        raise
    _say_capacity(capacity, cluster, console)


def _say_capacity(capacity: PlanCapacity, cluster: ClusterConfig, console: Console) -> None:
    tables = (_lengths_table(capacity), _memory_table(capacity, cluster), _time_table(capacity, cluster))
    lines = (*_shared_lines(capacity, cluster), *_assumption_lines(cluster))
    for part in (_layout_line(capacity, cluster), *tables, *lines):
        console.print(part, highlight=False, soft_wrap=isinstance(part, str))


def _cluster_line(cluster: ClusterConfig) -> str:
    if cluster.device == "cpu":
        return f"{cluster.name}: {cluster.cores_per_node} cores and {cluster.host_memory_gib:g} GiB, no GPU"
    return (
        f"{cluster.name}: {cluster.nodes} x {cluster.devices_per_node} GPUs of {cluster.device_memory_gib:g} GiB, "
        f"{cluster.bf16_tflops:g} TFLOP/s BF16, {cluster.memory_bandwidth_gb_s:g} GB/s"
    )


def _layout_line(capacity: PlanCapacity, cluster: ClusterConfig) -> str:
    """The layout of the first stage, and which stages differ; devices that stand idle."""
    first = capacity.stages[0]
    line = _layout(first)
    line += "".join(f"; {stage.name}: {_layout(stage)}" for stage in capacity.stages[1:] if _layout(stage) != line)
    apart = first.rollout.nodes > 0
    busy = first.num_ranks + first.num_engine_devices if apart else min(first.num_ranks, first.num_engine_devices)
    idle = cluster.num_devices - busy
    if cluster.device == "gpu" and idle > 0:
        line += f"; {idle} of {cluster.num_devices} devices have no trainer or no engine"
    return line


def _layout(stage: StageCapacity) -> str:
    trainer, rollout = stage.trainer, stage.rollout
    context = f"CP {trainer.context_parallel} x " if trainer.context_parallel > 1 else ""
    return (
        f"trainer TP {trainer.tensor_parallel} x {context}PP {trainer.pipeline_parallel} x DP {trainer.data_parallel}, "
        f"{trainer.dtype}, recompute {trainer.recompute}; {rollout.num_engines} engines of TP {rollout.tensor_parallel}"
        f"{f' on {rollout.nodes} nodes of their own' if rollout.nodes else ''}"
        f"{', by turns with the trainer' if rollout.sleep_level else ''}"
    )


def _table(title: str, headings: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), title=title, title_justify="left")
    for number, heading in enumerate(headings.split("|")):
        table.add_column(heading, justify="left" if number == 0 else "right", no_wrap=number == 0)
    return table


def _lengths_table(capacity: PlanCapacity) -> Table:
    table = _table(
        "Lengths",
        "stage|context|row|mean response|at limit|sequences a step|tokens a step|micro-batches|at once|surely at once",
    )
    for stage in capacity.stages:
        engine = stage.engine
        table.add_row(
            stage.name,
            str(stage.context),
            str(stage.row_tokens),
            f"{stage.lengths.mean:.0f}",
            f"{stage.lengths.share_at_limit:.0%}",
            str(stage.num_sequences),
            _millions(stage.num_tokens),
            str(stage.num_microbatches),
            f"{stage.num_at_once} x {stage.rollout.num_engines}" if engine else "",
            f"{engine.num_sequences(stage.context)} x {stage.rollout.num_engines}" if engine else "",
        )
    return table


def _memory_table(capacity: PlanCapacity, cluster: ClusterConfig) -> Table:
    # "all" decides where both stay on the device, "in turns" where rollout.sleep_level lets them leave it
    table = _table(
        "GiB on a device: the trainer rank that needs most, at rest and at work, and its engine",
        "stage|weights|grads|optim.|activ.|logits|at rest|at work|engine weights|KV cache|asleep|all|in turns|device",
    )
    for stage in capacity.stages:
        memory, engine = stage.memory, stage.engine
        table.add_row(
            stage.name,
            *(
                _gib(size)
                for size in (
                    memory.weights,
                    memory.gradients,
                    memory.optimizer,
                    memory.activations,
                    memory.logits,
                    memory.at_rest + stage.workspace,
                    memory.at_work + stage.workspace,
                )
            ),
            *((_gib(engine.weights), _gib(engine.kv_room), _gib(engine.asleep)) if engine else ("", "", "")),
            _gib(sum(stage.device_items.values())),
            _gib(stage.in_turns),
            f"{cluster.device_memory_gib:g}" if cluster.device == "gpu" else "",
        )
    return table


def _time_table(capacity: PlanCapacity, cluster: ClusterConfig) -> Table:
    table = _table(
        "Seconds of a step (estimated), and hours of the stage at most",
        "stage|generate|verify|train|refit|step|generating|steps|hours|device hours",
    )
    devices = cluster.num_devices if cluster.device == "gpu" else 1
    for stage in capacity.stages:
        time = stage.time
        seconds = (time.generate, time.verify, time.train, time.refit, time.total)
        table.add_row(
            stage.name,
            *(f"{one:.1f}" for one in seconds),
            f"{time.generate / time.total:.0%}",
            str(stage.num_steps),
            f"{stage.hours:.1f}",
            f"{stage.hours * devices:.0f}",
        )
    hours = sum(stage.hours for stage in capacity.stages)
    table.add_section()
    table.add_row("all", *[""] * 7, f"{hours:.1f}", f"{hours * devices:.0f}")
    return table


def _shared_lines(capacity: PlanCapacity, cluster: ClusterConfig) -> list[str]:
    host = ", ".join(f"{what} {_gib(size)}" for what, size in capacity.host_items.items())
    return [
        f"disk: {capacity.num_checkpoints} checkpoints of {_gib(capacity.checkpoint)} GiB = "
        f"{capacity.disk / TIB:.3g} of {cluster.shared_disk_tib:g} TiB",
        f"memory of a node: {_gib(sum(capacity.host_items.values()))} of {cluster.host_memory_gib:g} GiB ({host})",
    ]


def _assumption_lines(cluster: ClusterConfig) -> list[str]:
    assumed = cluster.assumptions
    by_stage = "".join(f", {name} {share:g}" for name, share in assumed.mean_response_share_by_stage.items())
    return [
        f"assumed: mean response {assumed.mean_response_share:g} of the longest{by_stage}, prompt "
        f"{assumed.mean_prompt_tokens} tokens; training at {assumed.trainer_mfu:.0%} MFU; decoding at "
        f"{assumed.decode_bandwidth_share:.0%} of the bandwidth, + {assumed.decode_overhead_ms:g} ms a step",
        "not counted: evaluations, counting passes of prompt filters, saving, starting",
    ]


def _gib(num_bytes: float) -> str:
    return f"{num_bytes / GIB:.1f}" if num_bytes >= GIB / 20 or num_bytes <= 0 else f"{num_bytes / GIB:.3f}"


def _millions(number: int) -> str:
    return f"{number / 1e6:.2f} M" if number >= 1e6 else f"{number / 1e3:.1f} K"
