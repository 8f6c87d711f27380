"""What every stage's loop is handed, and what happens around its steps: refit, report, checkpoint, evaluation.

Every trainer rank holds one. The engine, the scorer and the log are the leader's alone; on the other ranks they are
None and what they give arrives by broadcast.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from nemo_acereason.config.schema import EvalConfig, Plan, RewardConfig, StageConfig
from nemo_acereason.errors import RunStopped, WeightSyncError
from nemo_acereason.observe.log import RunLog
from nemo_acereason.observe.metrics import reward_wait, rollout_metrics, tokens_per_s
from nemo_acereason.observe.phases import Phases
from nemo_acereason.observe.progress import Progress
from nemo_acereason.parallel.collectives import max_over_ranks, on_leader
from nemo_acereason.protocols import PolicyTrainer, RolloutEngine, WeightLink
from nemo_acereason.records import Prompt, Sampling, ScoredGroup, Verdict
from nemo_acereason.rollout.draw import collect_groups, draw_and_score
from nemo_acereason.sandbox.pool import RewardPool
from nemo_acereason.sandbox.remote_pool import SpreadPool


class Stream(Protocol):
    """A stage's data, as far as its position goes."""

    @property
    def num_dropped(self) -> int: ...

    def state(self) -> dict[str, Any]: ...

    def restore(self, state: Mapping[str, Any]) -> None: ...


class CheckpointStore(Protocol):
    """Where checkpoints go; see :mod:`nemo_acereason.launch.resume`."""

    def save(self, trainer: PolicyTrainer, state: Mapping[str, Any]) -> None: ...


@dataclass
class Leader:
    """What one rank alone owns."""

    engine: RolloutEngine
    scorer: RewardPool | SpreadPool
    log: RunLog
    progress: Progress
    record: Callable[..., dict[str, float]]
    """Stores the groups of one evaluation and returns its metrics."""

    def close(self) -> None:
        """End engine and workers, flush the log."""
        self.engine.close()
        self.scorer.close()
        self.log.close()


@dataclass
class Evaluation:
    """A held-out set, rendered."""

    config: EvalConfig
    prompts: list[Prompt]
    sampling: Sampling
    seeds: list[int]


@dataclass
class Run:
    """One run, seen from one rank."""

    plan: Plan
    run_dir: Path
    trainer: PolicyTrainer
    link: WeightLink
    store: CheckpointStore
    leader: Leader | None
    evaluations: dict[str, Evaluation]
    phases: Phases = field(default_factory=Phases)
    _engine_step: int = -1
    """Optimizer steps behind the weights that the engine was last given; -1: none yet."""

    def refit(self) -> None:
        """Give the engine the trainer's present weights."""
        with self.phases("refit"):
            self.link.push(self.trainer, self.leader.engine if self.leader else None)
        self._engine_step = self.trainer.step_count

    def refit_if_stale(self) -> None:
        """Refit unless the engine has the present weights already (a stage begins, supervised steps were taken)."""
        if self._engine_step != self.trainer.step_count:
            self.refit()

    def draw(
        self, prompts: Sequence[Prompt], sampling: Sampling, reward: RewardConfig, seeds: Sequence[int], *, phase: str
    ) -> list[ScoredGroup]:
        """Groups drawn with the present weights and judged, the same list on every rank.

        Raises:
            WeightSyncError: the engine's weights are not the trainer's present ones.
        """

        def on_the_leader() -> list[ScoredGroup]:
            assert self.leader is not None
            engine, scorer = self.leader.engine, self.leader.scorer
            if self._engine_step != self.trainer.step_count:
                raise WeightSyncError(
                    f"the engine has the weights of step {self._engine_step}, the trainer is at step "
                    f"{self.trainer.step_count}: a weight update was skipped; start again from the last checkpoint"
                )
            scorer.use(reward, timeout_s=reward.timeout_s)
            with self.phases(phase):
                samples = draw_and_score(engine, scorer, prompts, sampling, seeds)
            with self.phases("reward_wait" if phase == "generate" else phase):
                groups = collect_groups(scorer, prompts, samples, sampling.num_samples)
            _refuse_unjudged(groups, reward)
            return groups

        return on_leader(on_the_leader)

    def end_step(
        self, stage: str, stage_step: int, metrics: Mapping[str, float], groups: Sequence[ScoredGroup] = ()
    ) -> None:
        """Report one optimizer step."""
        trainer_bytes = max_over_ranks(self.trainer.peak_memory_bytes())
        seconds = self.phases.take()
        if self.leader is None:
            return
        step = self.trainer.step_count
        values = {**metrics, **seconds, "memory/trainer_bytes": trainer_bytes}
        if groups:
            values |= rollout_metrics(groups) | reward_wait(values)
            values["memory/engine_bytes"] = self.leader.engine.peak_memory_bytes()
            values["memory/reward_pool_bytes"] = self.leader.scorer.peak_memory_bytes()
        values |= tokens_per_s(values)
        self.leader.log.log_step(stage, step, values, stage_step=stage_step)
        self.leader.log.log_samples(stage, step, groups, self.plan.log.samples_per_step)
        self.leader.progress.step(stage, stage_step, values)

    def save(self, stage: str, stage_step: int, stream: Stream, *, is_stage_end: bool) -> None:
        """Write a checkpoint from which the run goes on after ``stage_step``."""
        state = {"stage": stage, "stage_step": stage_step, "is_stage_end": is_stage_end, "data": stream.state()}
        with self.phases("checkpoint"):
            self.store.save(self.trainer, state)

    def save_if_due(self, name: str, stage_step: int, stage: StageConfig, stream: Stream) -> None:
        """The checkpoint of every n-th step; a stage's last one is saved after its evaluation."""
        every = self.plan.checkpoint.every_steps
        if every and stage_step % every == 0 and stage_step < stage.num_steps:
            self.save(name, stage_step, stream, is_stage_end=False)

    def begin_stage(self, name: str, stage: StageConfig, *, first_step: int) -> None:
        """A stage starts, or goes on at ``first_step``."""
        self.trainer.set_optimizer(stage.optimizer)
        if self.leader:
            self.leader.progress.begin_stage(name, first_step - 1)
            if first_step == 1:
                self.leader.log.log_event("stage_start", self.trainer.step_count, stage=name, kind=stage.kind)

    def end_stage(self, name: str, reason: str, *, num_dropped: int) -> None:
        """A stage is over; its checkpoint comes next.

        Args:
            num_dropped: rows that were longer than the stage takes, and so left out.
        """
        if self.leader:
            step, log = self.trainer.step_count, self.leader.log
            log.log_event("stage_end", step, stage=name, exit_reason=reason, num_rows_too_long=num_dropped)
            if num_dropped:
                self.leader.progress.note(f"{name}: left out {num_dropped} rows longer than the stage takes")

    def evaluate(self, stage: str, when: str) -> None:
        """Sample every held-out set with the present weights, the same draws each time."""
        if self.evaluations:
            self.refit_if_stale()
        for name, evaluation in self.evaluations.items():
            reward = evaluation.config.reward
            groups = self.draw(evaluation.prompts, evaluation.sampling, reward, evaluation.seeds, phase="evaluate")
            if self.leader:
                step = self.trainer.step_count
                metrics = self.leader.record(self.run_dir, name, groups, step=step, stage=stage, when=when)
                self.leader.log.log_event("evaluation", step, stage=stage, when=when, name=name, metrics=metrics)
                figures = "  ".join(f"{key} {value:.3f}" for key, value in metrics.items())
                self.leader.progress.note(f"{stage} {when}: {name}  {figures}")


def _refuse_unjudged(groups: Sequence[ScoredGroup], reward: RewardConfig) -> None:
    """A reward that judges nothing would train on nothing, step after step, without a word.

    Raises:
        RunStopped: no sample of the batch was judged.
    """
    scores = [score for group in groups for score in group.scores]
    if scores and all(score.verdict is Verdict.INFRASTRUCTURE for score in scores):
        raise RunStopped(
            f"reward {reward.function} judged none of {len(scores)} samples ({scores[0].detail}); mend it and start "
            "again; the first traceback is in RUN/logs/rank_0.log"
        )
