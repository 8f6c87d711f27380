"""One trainer process: ``python -m nemo_acereason.launch.rank RUN_DIR``, started by our own launcher.

Reads everything from ``RUN/plan.yaml``. Rank 0 also owns the rollout engines, the reward pool and the log; on other
nodes the first rank starts engines for it, and lends it the cores of its node for judging.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import torch
import torch.distributed as dist

from nemo_acereason.config.load import read_plan
from nemo_acereason.config.model_arch import read_model_arch
from nemo_acereason.config.schema import GrpoStage, Plan, RewardConfig
from nemo_acereason.errors import AceReasonError, CheckpointError, RunStopped
from nemo_acereason.evaluation.benchmarks import record_evaluation
from nemo_acereason.launch.build import (
    longest_sequence,
    model_directory,
    open_evaluations,
    open_stages,
    tokenizer_of,
)
from nemo_acereason.launch.engines import EngineHosts, open_hosts, weight_link
from nemo_acereason.launch.resume import DISK_FULL, CheckpointStore, full_disk
from nemo_acereason.launch.scorer import start_scorer
from nemo_acereason.launch.segments import next_segment
from nemo_acereason.launch.watchdog import Pulse
from nemo_acereason.loops.run import Evaluation, Leader, Run
from nemo_acereason.loops.stages import run_stages
from nemo_acereason.observe.log import RunLog
from nemo_acereason.observe.phases import Phases
from nemo_acereason.observe.progress import Progress
from nemo_acereason.parallel.collectives import on_leader
from nemo_acereason.rollout.engine import build_engine
from nemo_acereason.sandbox.lifetime import die_with_parent
from nemo_acereason.sandbox.pool import RewardPool
from nemo_acereason.sandbox.remote_pool import SpreadPool

if TYPE_CHECKING:
    from nemo_acereason.trainer.policy_trainer import MegatronTrainer


def run_rank(run_dir: Path, enter: Callable[[str, int], None] = lambda *_: None, last: str = "") -> None:
    """Run one segment of the plan of ``run_dir``: from the last checkpoint to the end of the stages of one layout.

    Args:
        last: the stage to end with at the latest; empty: the plan's last.
        enter: told the phase (empty: none) and the optimizer step that this rank is at, whenever they change.
    """
    plan = read_plan(run_dir / "plan.yaml")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    if device == "cuda":
        torch.cuda.set_device(local_rank)
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo",
        # ranks wait for the leader while it draws, judges and evaluates, however long that takes: the engine's silence
        # is the leader's to notice, a dead rank shows as a closed connection, and the launcher ends the others
        timeout=datetime.timedelta(days=7),
    )
    model_dir = on_leader(lambda: model_directory(plan, run_dir))
    tokenizer = tokenizer_of(plan, model_dir)
    evaluations = open_evaluations(plan, tokenizer)
    stages = open_stages(plan, tokenizer)
    store = CheckpointStore(run_dir, plan.checkpoint)
    found = on_leader(store.latest)

    segment = next_segment(plan, found[1] if found else None, last)
    assert segment is not None, "a run that has finished starts no rank"

    trainer = build_trainer(segment.plan, model_dir)
    if found:
        trainer.load(found[0] / "model")
    if segment.plan.rollout.sleep_level:  # an engine takes its memory when it starts
        trainer.sleep()
    hosts = open_hosts(segment.plan.rollout, local_rank=local_rank)
    link = weight_link(segment.plan.rollout, read_model_arch(model_dir), hosts.host_of_rank)
    scorer, server = start_scorer(plan.reward_pool, first_reward(segment.plan, evaluations), local_rank=local_rank)
    with Progress({name: stage.num_steps for name, stage in plan.stages.items()}) as progress:
        leader: Leader | None = None
        try:
            if scorer:
                log = RunLog(run_dir, plan.log, dataclasses.asdict(plan))
                log.resume_at(trainer.step_count)
                leader = start_leader(segment.plan, log, model_dir, evaluations, progress, scorer, hosts)
            phases = Phases(on_change=lambda phase: enter(phase, trainer.step_count + 1))
            enter("", trainer.step_count + 1)
            run = Run(segment.plan, run_dir, trainer, link, store, leader, evaluations, phases)
            try:
                run_stages(run, stages, found[1] if found else None, last=segment.last)
            except RunStopped:  # raised on every rank alike: what is being written need not be lost
                store.finish()
                raise
            store.finish()
        finally:
            link.close()
            if leader:
                leader.close()
            elif scorer:
                scorer.close()
            hosts.close()
            if server:
                server.close()
    dist.barrier()


def build_trainer(plan: Plan, model_dir: Path) -> MegatronTrainer:
    """The policy on this rank. Megatron is imported here: on a CPU its device redirect has to come first."""
    from nemo_acereason.trainer import cpu_device

    if not torch.cuda.is_available():
        cpu_device.install()
    from nemo_acereason.trainer.policy_trainer import MegatronTrainer
    from nemo_acereason.trainer.weights import HfDirectory, RandomWeights

    arch = read_model_arch(model_dir)
    weights = (
        HfDirectory(model_dir, arch)
        if plan.model.path
        else RandomWeights(arch, plan.seed, plan.model.initializer_range)
    )
    first_stage = next(iter(plan.stages.values()))
    return MegatronTrainer(arch, plan.trainer, first_stage.optimizer, weights, seed=plan.seed)


def first_reward(plan: Plan, evaluations: dict[str, Evaluation]) -> RewardConfig:
    """What the reward pool is warm for at the start."""
    rewards = [stage.reward for stage in plan.stages.values() if isinstance(stage, GrpoStage)]
    rewards += [evaluation.config.reward for evaluation in evaluations.values()]
    return rewards[0] if rewards else RewardConfig()


def start_leader(
    plan: Plan,
    log: RunLog,
    model_dir: Path,
    evaluations: dict[str, Evaluation],
    progress: Progress,
    scorer: RewardPool | SpreadPool,
    hosts: EngineHosts,
) -> Leader:
    """Engine, reward pool and log: what rank 0 owns. ``plan`` is that of the segment."""
    engine = build_engine(
        plan.rollout,
        model_dir=model_dir,
        dtype=plan.trainer.dtype if plan.rollout.dtype == "auto" else plan.rollout.dtype,
        max_model_len=longest_sequence(plan, evaluations),
        seed=plan.seed,
        log_path=log.run_dir / "logs" / "engine.log",
        places=hosts.places,
        start_worker=hosts.start_worker,
    )
    return Leader(engine, scorer, log, progress, record_evaluation)


def main() -> NoReturn:
    """Exit status: that of the error's class, 1 for what nobody foresaw; the launcher is told the message."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--parent", type=int, help="process id of the launcher, with which this rank is to die")
    parser.add_argument("--pipe", type=int, help="descriptor on which the launcher listens")
    parser.add_argument("--last", default="", help="the stage to end with")
    arguments = parser.parse_args()
    if arguments.parent is not None:
        die_with_parent(arguments.parent)
        # who ends a job may send them to all processes at once: the launcher asks to save, and ends ranks by SIGKILL
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    pulse = Pulse(arguments.pipe) if arguments.pipe is not None else None
    status = 0
    try:
        run_rank(arguments.run_dir, pulse.enter if pulse else lambda *_: None, arguments.last)
    except Exception as error:
        message, status = _one_line(error), 1
        is_known = isinstance(error, AceReasonError)
        if isinstance(error, AceReasonError):
            message, status = str(error), error.exit_status
        elif isinstance(error, OSError) and error.errno in DISK_FULL:
            message, status, is_known = full_disk(error, arguments.run_dir), CheckpointError.exit_status, True
        if pulse:
            pulse.tell_end(message, status, is_known=is_known)
        with contextlib.suppress(OSError):  # a full disk takes no traceback
            traceback.print_exc()
    # Leave without the interpreter's teardown: a broken process group would make it wait for the other ranks, and
    # gloo's threads sometimes abort it after a run that went well ("terminate called without an active exception").
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status)


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:500]


if __name__ == "__main__":
    main()
