"""What every stage's loop is handed, and what happens around its steps: refit, report, checkpoint, evaluation.

Every trainer rank holds one. The engine, the scorer and the log are the leader's alone; on the other ranks they are
None and what they give arrives by broadcast.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from nemo_acereason.config.schema import EvalConfig, Plan, RewardConfig, StageConfig
from nemo_acereason.errors import RunStopped, StopAsked, WeightSyncError
from nemo_acereason.loops.rules import Rail, StageRules
from nemo_acereason.observe.log import RunLog, read_history
from nemo_acereason.observe.metrics import reward_wait, rollout_metrics, tokens_per_s
from nemo_acereason.observe.phases import Phases
from nemo_acereason.observe.progress import Progress
from nemo_acereason.parallel.collectives import barrier, max_over_ranks, on_leader
from nemo_acereason.protocols import PolicyTrainer, RolloutEngine, WeightLink
from nemo_acereason.records import Prompt, Sampling, ScoredGroup, StageHistory, Verdict
from nemo_acereason.rollout.draw import collect_groups, draw_and_score
from nemo_acereason.sandbox.pool import RewardPool
from nemo_acereason.sandbox.remote_pool import SpreadPool

STOP_FILE = "stop"
"""Put into the run directory, it asks the run to save behind its present step and to stop."""


class Stream(Protocol):
    """A stage's data, as far as its position goes."""

    @property
    def num_dropped(self) -> int: ...

    @property
    def epochs_done(self) -> int: ...

    def state(self) -> dict[str, Any]: ...

    def restore(self, state: Mapping[str, Any]) -> None: ...


class CheckpointStore(Protocol):
    """Where checkpoints go; see :mod:`nemo_acereason.launch.resume`."""

    def save(self, trainer: PolicyTrainer, state: Mapping[str, Any]) -> None: ...

    def poll(self) -> None: ...


@dataclass
class Leader:
    """What one rank alone owns."""

    engine: RolloutEngine
    scorer: RewardPool | SpreadPool
    log: RunLog
    progress: Progress
    record: Callable[..., dict[str, float]]
    """Stores the groups of one evaluation and returns its metrics."""
    history: StageHistory = field(default_factory=lambda: StageHistory([], []))
    """Of the stage that runs."""

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


@dataclass(frozen=True)
class StageEnd:
    """How a stage's loop ended."""

    step: int
    """The stage's last step, from 1; 0: none was taken."""
    reason: str


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
    stages_before: list[str] = field(default_factory=list)
    """Stages of the whole plan that ended before the present one."""
    epochs_done: int = 0
    """Walks over the stage's data that were done before the present step."""
    _engine_step: int = -1
    """Optimizer steps behind the weights that the engine was last given; -1: none yet."""
    _turn: Literal["engine", "refit", "trainer"] = "engine"
    """Who has the device, where they take turns; the engine is started while the trainer sleeps."""
    _sleep_metrics: dict[str, float] = field(default_factory=dict)
    """What the trainer's last sleep freed on this rank; empty where it never sleeps."""
    _evaluated_step: int = -1
    """Optimizer steps behind the weights that were last evaluated; -1: none yet."""
    _evaluated: dict[str, list[ScoredGroup]] = field(default_factory=dict)
    """What that evaluation drew, by held-out set; the leader's alone, for it is large and nobody else needs it."""
    _evaluation_metrics: dict[str, float] = field(default_factory=dict)
    """What it came to, by ``NAME:METRIC``; the leader's."""

    def refit(self) -> None:
        """Give the engine the trainer's present weights."""
        self.to_trainer()
        with self.phases("refit"):
            if self.plan.rollout.sleep_level:
                self.trainer.wake()
                self._put_trainer_to_sleep(keep_weights=True)
                on_leader(lambda: self._engine.wake(for_refit=True))
            self.link.push(self.trainer, self.leader.engine if self.leader else None)
        self._engine_step = self.trainer.step_count
        self._turn = "refit"

    def refit_if_stale(self) -> None:
        """Refit unless the engine has the present weights already (a stage begins, supervised steps were taken)."""
        if self._engine_step != self.trainer.step_count:
            self.refit()

    def to_trainer(self) -> None:
        """Before the trainer computes or saves, on every rank together: the engine leaves the device to it."""
        level = self.plan.rollout.sleep_level
        if not level or self._turn == "trainer":
            return
        with self.phases("sleep"):
            if self._turn == "refit":  # vLLM wakes all of itself before it sleeps again
                self._put_trainer_to_sleep(keep_weights=False)
            on_leader(lambda: self._engine.sleep(level))
        self._turn = "trainer"

    def to_engine(self) -> None:
        """Before draws, on every rank together: the trainer leaves the device to the engine."""
        level = self.plan.rollout.sleep_level
        if not level or self._turn == "engine":
            return
        if level == 2 and self._turn == "trainer":
            self.refit()  # it has dropped its weights
        with self.phases("sleep"):
            self._put_trainer_to_sleep(keep_weights=False)
            on_leader(lambda: self._engine.wake(for_refit=False))
        self._turn = "engine"

    def draw(
        self, prompts: Sequence[Prompt], sampling: Sampling, reward: RewardConfig, seeds: Sequence[int], *, phase: str
    ) -> list[ScoredGroup]:
        """Groups drawn with the present weights and judged, the same list on every rank.

        Raises:
            WeightSyncError: the engine's weights are not the trainer's present ones.
        """
        self.to_engine()
        return on_leader(lambda: self.draw_here(prompts, sampling, reward, seeds, phase=phase))

    def draw_here(
        self, prompts: Sequence[Prompt], sampling: Sampling, reward: RewardConfig, seeds: Sequence[int], *, phase: str
    ) -> list[ScoredGroup]:
        """As :meth:`draw`, on the leader alone and inside of ``on_leader``: for groups that no other rank needs.

        After :meth:`to_engine`.
        """
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
        refuse_unjudged(groups, reward)
        return groups

    def end_step(
        self, stage: str, stage_step: int, metrics: Mapping[str, float], groups: Sequence[ScoredGroup] = ()
    ) -> None:
        """Report one optimizer step."""
        self.store.poll()
        trainer_bytes = max_over_ranks(self.trainer.peak_memory_bytes())
        seconds = self.phases.take()
        if self.leader is None:
            return
        step = self.trainer.step_count
        values = {**metrics, **seconds, "memory/trainer_bytes": trainer_bytes, **self._sleep_metrics}
        if groups:
            values |= rollout_metrics(groups) | reward_wait(values)
            values["memory/engine_bytes"] = self.leader.engine.peak_memory_bytes()
            values["memory/reward_pool_bytes"] = self.leader.scorer.peak_memory_bytes()
        values |= tokens_per_s(values)
        self.leader.log.log_step(stage, step, values, stage_step=stage_step)
        self.leader.history.steps.append({**values, "step": step, "stage_step": stage_step})
        self.leader.log.log_samples(stage, step, groups, self.plan.log.samples_per_step)
        self.leader.progress.step(stage, stage_step, values)

    def after_step(
        self, name: str, stage: StageConfig, stage_step: int, stream: Stream, rules: StageRules
    ) -> str | None:
        """What follows a reported step: guard rails, exits, and evaluation and checkpoint where they are due.

        Returns:
            Why the stage ends with this step; None: it goes on.
        Raises:
            RunStopped: a guard rail that stops was met.
            StopAsked: the run was asked to stop, and has saved.
        """
        on_leader(lambda: self._meet_rails(name, stage_step, rules))
        if reason := self._reason_to_end(stage, stage_step, stream, rules):
            return reason
        is_evaluated = stage.evaluate_every > 0 and stage_step % stage.evaluate_every == 0
        is_evaluated |= stage.evaluate_each_epoch and stream.epochs_done > self.epochs_done
        self.epochs_done = stream.epochs_done
        if is_evaluated:
            self.evaluate(name, "during")
            if reason := self._reason_to_end(stage, stage_step, stream, rules):
                return reason
        checkpoint = self.plan.checkpoint
        is_due = checkpoint.every_steps > 0 and stage_step % checkpoint.every_steps == 0
        is_to_stop = self.is_asked_to_stop()
        if is_due or is_to_stop or (is_evaluated and checkpoint.keep_best):
            self.save(name, stage_step, stream, rules, is_stage_end=False)
        if is_to_stop:
            raise StopAsked(f"asked to stop: saved behind step {stage_step} of stage {name}; start again to go on")
        return None

    def save(self, stage: str, stage_step: int, stream: Stream, rules: StageRules, *, is_stage_end: bool) -> None:
        """Write a checkpoint from which the run goes on after ``stage_step``."""
        state = {
            "stage": stage,
            "stage_step": stage_step,
            "is_stage_end": is_stage_end,
            "stages_before": self.stages_before,
            "data": stream.state(),
            "rules": rules.state(),
            "evaluation": self._evaluation_metrics if self._evaluated_step == self.trainer.step_count else {},
        }
        self.to_trainer()
        with self.phases("checkpoint"):
            self.store.save(self.trainer, state)

    def begin_stage(self, name: str, stage: StageConfig, *, first_step: int) -> None:
        """A stage starts, or goes on at ``first_step``."""
        self.trainer.set_optimizer(stage.optimizer)
        if self.leader:
            self.leader.history = read_history(self.run_dir, name)
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
        """Sample every held-out set with the present weights, the same draws each time.

        A stage that ends on a step that was evaluated already reports that evaluation again and draws nothing.
        """
        step = self.trainer.step_count
        if self.evaluations and self._evaluated_step != step:
            self.refit_if_stale()
            self.to_engine()
            on_leader(self._draw_evaluations)
            self._evaluated_step = step
        if self.leader is None:
            return
        history = self.leader.history.evaluations
        for name, groups in self._evaluated.items():
            metrics = self.leader.record(self.run_dir, name, groups, step=step, stage=stage, when=when)
            self._evaluation_metrics |= {f"{name}:{metric}": value for metric, value in metrics.items()}
            # a start that was killed before its first checkpoint has left the same evaluation there
            history[:] = [each for each in history if (each["name"], each["step"]) != (name, step)]
            history.append({"name": name, "step": step, "metrics": metrics})
            figures = "  ".join(f"{key} {value:.3f}" for key, value in metrics.items())
            note = f"{stage} {when}: {name}  {figures}"
            self.note_event("evaluation", note, stage=stage, when=when, name=name, metrics=metrics)

    def _draw_evaluations(self) -> None:
        for name, evaluation in self.evaluations.items():
            self._evaluated[name] = self.draw_here(
                evaluation.prompts, evaluation.sampling, evaluation.config.reward, evaluation.seeds, phase="evaluate"
            )

    def note_event(self, event: str, note: str, **fields: Any) -> None:
        """Log an event and say it on the terminal; the leader's to call."""
        assert self.leader is not None
        self.leader.log.log_event(event, self.trainer.step_count, **fields)
        self.leader.progress.note(note)

    @property
    def _engine(self) -> RolloutEngine:
        assert self.leader is not None, "the leader's alone"
        return self.leader.engine

    def _put_trainer_to_sleep(self, *, keep_weights: bool) -> None:
        """Return when it has left the devices of all ranks."""
        memory = self.trainer.sleep(keep_weights=keep_weights)
        self._sleep_metrics = {
            "memory/trainer_awake_bytes": memory.before_bytes,
            "memory/trainer_asleep_bytes": memory.after_bytes,
            "memory/trainer_host_bytes": memory.host_bytes,
        }
        barrier()

    def is_asked_to_stop(self) -> bool:
        """Whether somebody asked since this was last looked at; the same on every rank."""

        def take() -> bool:
            file = self.run_dir / STOP_FILE
            is_there = file.exists()
            file.unlink(missing_ok=True)
            return is_there

        return on_leader(take)

    def _meet_rails(self, name: str, stage_step: int, rules: StageRules) -> None:
        assert self.leader is not None
        for rail, reason in rules.rails_met(self.leader.history):
            self.note_event("guard_rail", f"{name}: {reason}", stage=name, name=rail.name, reason=reason)
            if rail.action == "stop":
                raise stopped_by(rail, reason, name, stage_step)

    def _reason_to_end(self, stage: StageConfig, stage_step: int, stream: Stream, rules: StageRules) -> str | None:
        if stage_step >= stage.num_steps:
            return f"all {stage.num_steps} steps done"
        if reason := epochs_over(stage, stream):
            return reason
        # what the leader reported decides for all
        return on_leader(lambda: rules.reason_to_end(self.leader.history) if self.leader else None)


def epochs_over(stage: StageConfig, stream: Stream) -> str | None:
    """That the stage's walks over its data are done; None: they are not, or it has no bound of them."""
    if stage.num_epochs and stream.epochs_done >= stage.num_epochs:
        return f"all {stage.num_epochs} epochs done"
    return None


def stopped_by(rail: Rail, reason: str, stage: str, stage_step: int) -> RunStopped:
    """What to raise where a guard rail that stops was met."""
    return RunStopped(
        f"step {stage_step} of stage {stage}: {reason}; look for the cause, then start again, or change "
        f"stages.{stage}.guards.rails.{rail.name}"
    )


def refuse_unjudged(groups: Sequence[ScoredGroup], reward: RewardConfig) -> None:
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
