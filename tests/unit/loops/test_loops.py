"""What the loops do, in which order, and what stops them."""

from __future__ import annotations

import math

import pytest

from nemo_acereason.config.schema import GuardConfig, RewardConfig
from nemo_acereason.errors import MismatchError, RunStopped, WeightSyncError
from nemo_acereason.loops.grpo import check_mismatch
from nemo_acereason.loops.run import Run, refuse_unjudged
from nemo_acereason.loops.stages import run_stages
from nemo_acereason.records import Prompt, Score, ScoredGroup, StepMetrics, Verdict
from tests.unit.loops.parties import grpo_stage, make_run, ready


def test_a_stage_refits_once_before_each_draw_and_saves_when_due() -> None:
    stage = grpo_stage(3)
    run, did = make_run({"math": stage}, every_steps=2)
    run_stages(run, [ready("math", stage)], resume=None)
    assert did == [
        *("stage_start math", "refit", "draw", "evaluation math before"),
        *("draw", "step 1", "refit", "log math 1"),
        *("draw", "step 2", "refit", "log math 2", "save math 2 at 2"),
        *("draw", "step 3", "refit", "log math 3"),
        *("draw", "evaluation math after", "stage_end math", "save math 3 end at 3"),
    ]


def test_a_stage_that_is_not_to_be_evaluated_is_not() -> None:
    first, second = grpo_stage(1, evaluate=False), grpo_stage(1)
    run, did = make_run({"first": first, "second": second})
    run_stages(run, [ready("first", first), ready("second", second)], resume=None)
    assert [what for what in did if what.startswith("evaluation")] == [
        "evaluation first before",
        "evaluation second after",
    ]


@pytest.mark.parametrize(
    ("stage_step", "is_stage_end", "first"),
    [(1, False, ["refit", "draw", "step 2", "refit", "log math 2"]), (2, True, ["stage_start more", "refit", "draw"])],
)
def test_resume_goes_on_behind_the_checkpoint(stage_step: int, is_stage_end: bool, first: list[str]) -> None:
    stages = {"math": grpo_stage(2), "more": grpo_stage(1)}
    run, did = make_run(stages)
    run.trainer.step_count = stage_step  # type: ignore[misc]
    state = {
        "stage": "math",
        "stage_step": stage_step,
        "is_stage_end": is_stage_end,
        "data": {"position": 7},
        "rules": {},
    }
    ready_stages = [ready(name, stage) for name, stage in stages.items()]
    run_stages(run, ready_stages, state)
    assert did[: len(first)] == first
    assert did[-1] == "save more 1 end at 1"
    assert ready_stages[0].stream.state() == {"position": 0 if is_stage_end else 8}


def test_a_skipped_weight_update_stops_the_next_draw_and_names_both_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = grpo_stage(3)
    run, did = make_run({"math": stage})
    refit = Run.refit

    def refit_but_not_after_step_2(self: Run) -> None:
        if self.trainer.step_count != 2:
            refit(self)

    monkeypatch.setattr(Run, "refit", refit_but_not_after_step_2)
    with pytest.raises(WeightSyncError) as caught:
        run_stages(run, [ready("math", stage)], resume=None)
    assert str(caught.value) == (
        "the engine has the weights of step 1, the trainer is at step 2: a weight update was skipped; "
        "start again from the last checkpoint"
    )
    assert caught.value.exit_status == 4
    assert did[-1] == "log math 2", "nothing was drawn with the old weights"


def test_disagreement_of_sampler_and_trainer_stops_before_the_optimizer_acts() -> None:
    stage = grpo_stage(3)
    run, did = make_run({"math": stage}, logp_error=0.25)
    with pytest.raises(MismatchError, match=r"step 1 of stage math: .* logp_error_mean = 0.25 nats, want at most 0.1"):
        run_stages(run, [ready("math", stage)], resume=None)
    assert did[-1] == "draw", "no step was taken"


@pytest.mark.parametrize(
    ("mean", "largest", "guards", "stopped_by"),
    [
        (0.1, 9.0, GuardConfig(mean_logp_error=0.1), ""),
        (0.11, 0.11, GuardConfig(mean_logp_error=0.1), "logp_error_mean"),
        (0.05, 0.3, GuardConfig(mean_logp_error=0.1, max_logp_error=0.2), "logp_error_max"),
        (math.nan, 0.0, GuardConfig(mean_logp_error=0.1), "logp_error_mean"),
        (0.0, math.inf, GuardConfig(mean_logp_error=0.1, max_logp_error=0.2), "logp_error_max"),
    ],
)
def test_guards(mean: float, largest: float, guards: GuardConfig, stopped_by: str) -> None:
    sums = {"num_tokens": 1.0, "sum_entropy": 0.0, "sum_kl": 0.0, "sum_prob_error": 0.0}
    metrics = StepMetrics(7, 0.0, 0.0, 0.0, {**sums, "sum_logp_error": mean, "max_logp_error": largest})
    if not stopped_by:
        check_mismatch("math", metrics, guards)
        return
    with pytest.raises(MismatchError, match=rf"step 7 of stage math: sampler and trainer disagree, {stopped_by} = "):
        check_mismatch("math", metrics, guards)


def test_a_reward_that_judges_nothing_stops_the_run() -> None:
    score = Score.of(Verdict.INFRASTRUCTURE, detail="KeyError: 'x'")
    group = ScoredGroup(Prompt("p", "", "", "math", "", (1,)), (), (score, score))
    with pytest.raises(RunStopped, match=r"judged none of 4 samples \(KeyError: 'x'\)"):
        refuse_unjudged([group, group], RewardConfig())
    judged = ScoredGroup(group.prompt, (), (score, Score.of(Verdict.WRONG)))
    refuse_unjudged([group, judged], RewardConfig())
