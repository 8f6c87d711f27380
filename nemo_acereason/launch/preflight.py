"""Everything about a plan that can be found wrong before a process is started."""

from __future__ import annotations

import inspect
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nemo_acereason.config.cluster import ClusterConfig
from nemo_acereason.config.load import check_plan, import_function
from nemo_acereason.config.model_arch import read_model_arch
from nemo_acereason.config.schema import EvalConfig, GrpoStage, LogConfig, Plan, RewardConfig
from nemo_acereason.errors import ConfigError
from nemo_acereason.evaluation.summary import pass_sizes
from nemo_acereason.launch.build import (
    longest_sequence,
    model_directory,
    open_evaluations,
    open_stages,
    tokenizer_of,
)
from nemo_acereason.launch.capacity_checks import check_capacity
from nemo_acereason.launch.segments import segments
from nemo_acereason.loops.rules import bind_rule
from nemo_acereason.records import StageHistory
from nemo_acereason.resharding.fp8 import check_fp8_layout
from nemo_acereason.resharding.layout import check_layout
from nemo_acereason.rollout.engine import check_engine
from nemo_acereason.sandbox.code_reward import code_reward
from nemo_acereason.sandbox.warm import choose_level


def check_before_start(plan: Plan, cluster: ClusterConfig | None = None, *, runs_here: bool = True) -> None:
    """Open what the run will open and refuse what cannot work.

    Args:
        cluster: whose devices, memory and disk the plan must fit; None: these are not looked at.
        runs_here: off on a login node, which need not have the sandbox or the devices of the nodes.
    Raises:
        UserError: the setting, file or row that is wrong, and what would work.
    """
    check_plan(plan)
    with tempfile.TemporaryDirectory() as scratch:
        _check_loggers(plan.log, Path(scratch))
        model_dir = model_directory(plan, Path(scratch))
        arch = read_model_arch(model_dir)
        for segment in segments(plan):
            if runs_here:
                check_engine(segment.plan.rollout, arch)
            trainer, rollout = segment.plan.trainer, segment.plan.rollout
            check_layout(
                arch,
                tensor_parallel=trainer.tensor_parallel,
                pipeline_parallel=trainer.pipeline_parallel,
                virtual_pipeline=trainer.virtual_pipeline,
            )
            if rollout.dtype == "fp8":
                check_fp8_layout(arch, trainer_tp=trainer.tensor_parallel, engine_tp=rollout.tensor_parallel)
        if cluster:
            check_capacity(plan, arch, cluster)
        for name, stage in plan.stages.items():
            if isinstance(stage, GrpoStage):
                _check_reward(stage.reward, f"stages.{name}.reward", runs_here)
        _check_rules(plan)
        for name, evaluation in plan.evaluations.items():
            _check_reward(evaluation.reward, f"evaluations.{name}.reward", runs_here)
        tokenizer = tokenizer_of(plan, model_dir)
        open_stages(plan, tokenizer)
        _check_exits(plan)
        longest = longest_sequence(plan, open_evaluations(plan, tokenizer))
    if longest > arch.max_positions:
        raise ConfigError(
            f"the longest prompt and response need {longest} tokens, the model's max_position_embeddings is "
            f"{arch.max_positions}; lower max_prompt_tokens or max_response_tokens, or extend the model's rope"
        )


def _check_rules(plan: Plan) -> None:
    """What a stage's rules need of the rest of the plan; that they take their options is seen where they are bound."""
    best = plan.checkpoint.keep_best
    if best:
        name, _, metric = best.partition(":")
        if name not in plan.evaluations or metric not in _metric_names(plan.evaluations[name]):
            known = ", ".join(f"{name}:avg@{held_out.num_samples}" for name, held_out in plan.evaluations.items())
            raise ConfigError(
                f"checkpoint.keep_best={best}: want one of {known or 'the evaluations, of which are none'}"
            )
    for name, stage in plan.stages.items():
        for setting in ("evaluate_every", "evaluate_each_epoch"):
            if getattr(stage, setting) and not plan.evaluations:
                value = getattr(stage, setting)
                raise ConfigError(f"stages.{name}.{setting}={value}: the plan has no evaluations; add one")


def _check_exits(plan: Plan) -> None:
    """A set or a metric that a rule names is else missed after days, by the first step of the last stage.

    Options of the rules were tried as they were bound.
    """
    evaluations: list[Mapping[str, Any]] = [
        {"name": name, "step": 0, "metrics": dict.fromkeys(_metric_names(held_out), 0.0)}
        for name, held_out in plan.evaluations.items()
    ] or [{"name": "the plan's evaluations, of which there are none", "step": 0, "metrics": {}}]
    for name, stage in plan.stages.items():
        for exit_, rule in stage.exits.items():
            if rule.function:
                key = f"stages.{name}.exits.{exit_}"
                try:
                    bind_rule(rule, key)(StageHistory([], evaluations))
                except ConfigError as error:
                    raise ConfigError(f"{key}: {error}") from None


def _metric_names(held_out: EvalConfig) -> list[str]:
    """What an evaluation of the set gives, as rules and ``keep_best`` name it."""
    return [f"avg@{held_out.num_samples}", *(f"pass@{k}" for k in pass_sizes(held_out.num_samples))]


def _check_reward(reward: RewardConfig, key: str, runs_here: bool) -> None:
    """A reward that cannot be called, or may not run here, would leave every sample of its stage unjudged."""
    function = import_function(reward.function, f"{key}.function")
    try:
        inspect.signature(function).bind(None, None, **reward.options)
    except TypeError as error:
        raise ConfigError(f"{key}.options={dict(reward.options)}: {error}; mend the options") from None
    if function is code_reward and runs_here:
        choose_level(reward.options.get("isolation", "auto"))


def _check_loggers(config: LogConfig, scratch: Path) -> None:
    """Make the further loggers once, writing nothing that stays; Lightning is imported only where one is named."""
    if config.loggers:
        from nemo_acereason.observe.loggers import make_logger

        for name in config.loggers:
            make_logger(name, scratch, config.logger_options.get(name, {}))
