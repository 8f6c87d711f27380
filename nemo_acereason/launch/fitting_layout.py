"""A layout with which a plan works on a GPU cluster, found by trying: for ``acereason plan`` to propose."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from nemo_acereason.config.cluster import ClusterConfig
from nemo_acereason.config.model_arch import ModelArch
from nemo_acereason.config.schema import Plan
from nemo_acereason.errors import ConfigError
from nemo_acereason.launch.capacity import capacity_of, changed, stage_layouts
from nemo_acereason.launch.capacity_checks import check_computed, engine_share

_CONTEXT_HANDICAP = 1.05
"""Context parallel is proposed where nothing else fits or it saves more than this: estimates are no finer."""


def fitting_layout(plan: Plan, arch: ModelArch, cluster: ClusterConfig) -> dict[str, Any]:
    """The settings with which a plan takes all of a GPU cluster and the least time; empty: none was found.

    Tries tensor, context and pipeline parallel within a node, recomputation, engine sizes, and engine and trainer side
    by side or by turns, the same for all stages, with as large a cache as is left; optimizer state in host memory,
    whose updates no estimate counts, only where nothing else fits.
    """
    layouts = stage_layouts(plan)
    for offload in (0.0, 1.0):
        best: dict[str, Any] = {}
        least = float("inf")
        for settings in _candidates(arch, cluster):
            if offload:
                settings["trainer.optimizer_offload"] = offload
            try:
                capacity = capacity_of(plan, changed(layouts, settings), arch, cluster)
                settings["rollout.gpu_memory_utilization"] = min(engine_share(s, cluster) for s in capacity.stages)
                if settings["rollout.gpu_memory_utilization"] <= 0:
                    continue
                capacity = capacity_of(plan, changed(layouts, settings), arch, cluster)
                check_computed(capacity, plan, arch, cluster)
            except ConfigError:
                continue
            hours = sum(stage.hours for stage in capacity.stages)
            if settings["trainer.context_parallel"] > 1:
                hours *= _CONTEXT_HANDICAP
            if hours < least:
                best, least = settings, hours
        if best:
            return best
    return {}


def _candidates(arch: ModelArch, cluster: ClusterConfig) -> Iterator[dict[str, Any]]:
    powers = [2**n for n in range(8) if cluster.devices_per_node % 2**n == 0]
    pipelines = [p for p in (1, 2, 4, 8) if arch.num_layers % p == 0]
    for tensor, context, pipeline, recompute, engine, sleep_level in itertools.product(
        powers, powers, pipelines, ("none", "full"), powers, (0, 2)
    ):
        data = cluster.num_devices // (tensor * context * pipeline)
        copy = tensor * context * pipeline
        if copy <= cluster.devices_per_node and data * copy == cluster.num_devices:
            yield {
                "trainer.tensor_parallel": tensor,
                "trainer.sequence_parallel": tensor > 1,
                "trainer.context_parallel": context,
                "trainer.pipeline_parallel": pipeline,
                "trainer.virtual_pipeline": 1,
                "trainer.data_parallel": data,
                "trainer.recompute": recompute,
                "rollout.tensor_parallel": engine,
                "rollout.num_engines": cluster.num_devices // engine,
                "rollout.sleep_level": sleep_level,
                "rollout.nodes": 0,
            }
