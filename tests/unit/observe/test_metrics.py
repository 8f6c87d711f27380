import pytest

from nemo_acereason.observe.metrics import reward_wait, rollout_metrics, step_seconds, tokens_per_s, trainer_metrics
from nemo_acereason.records import Prompt, Sample, Score, ScoredGroup, StepMetrics, Verdict


def group(*samples: tuple[Verdict, int, str]) -> ScoredGroup:
    """A group from (verdict, response tokens, finish reason) of each sample; its prompt has 10 tokens."""
    return ScoredGroup(
        Prompt("p", "1+1", "2", "math", "1+1=", (0,) * 10),
        tuple(Sample((1,) * tokens, (-1.0,) * tokens, "", reason, 0) for _, tokens, reason in samples),
        tuple(Score.of(verdict, seconds=0.5) for verdict, _, _ in samples),
    )


MIXED = group((Verdict.CORRECT, 4, "stop"), (Verdict.WRONG, 8, "stop"))
ALL_WRONG = group((Verdict.WRONG, 2, "stop"), (Verdict.UNFINISHED, 16, "length"))
OUR_FAULT = group((Verdict.INFRASTRUCTURE, 6, "stop"), (Verdict.INFRASTRUCTURE, 6, "stop"))


def test_rewards_and_verdicts_are_counted() -> None:
    metrics = rollout_metrics([MIXED, ALL_WRONG])
    assert metrics["reward_mean"] == 0.25
    assert metrics["pass_rate"] == 0.5
    assert (metrics["num_groups"], metrics["num_samples"]) == (2, 4)
    assert (metrics["num_groups_no_signal"], metrics["no_signal_share"]) == (1, 0.5)
    assert (metrics["verdict/correct"], metrics["verdict/wrong"], metrics["verdict/unfinished"]) == (1, 2, 1)
    assert metrics["verdict/timeout"] == 0
    assert metrics["reward_seconds_mean"] == 0.5


def test_lengths_are_counted_over_all_samples() -> None:
    metrics = rollout_metrics([MIXED, ALL_WRONG])
    assert metrics["response_tokens_mean"] == 7.5
    assert (metrics["response_tokens_max"], metrics["response_tokens_p50"], metrics["response_tokens_p95"]) == (
        16,
        4,
        16,
    )
    assert metrics["clipped_share"] == 0.25
    assert metrics["prompt_tokens_mean"] == 10
    assert (metrics["tokens/prompt"], metrics["tokens/response"]) == (20, 30)


def test_percentiles_are_nearest_rank() -> None:
    lengths = group(*[(Verdict.WRONG, tokens, "stop") for tokens in range(1, 21)])
    metrics = rollout_metrics([lengths])
    assert (metrics["response_tokens_p50"], metrics["response_tokens_p95"]) == (10, 19)


def test_infrastructure_is_neither_wrong_nor_correct() -> None:
    half_lost = group((Verdict.CORRECT, 4, "stop"), (Verdict.INFRASTRUCTURE, 4, "stop"))
    metrics = rollout_metrics([half_lost, OUR_FAULT])
    assert metrics["reward_mean"] == 1.0
    assert metrics["pass_rate"] == 1.0  # of the one group that was judged
    assert metrics["num_infrastructure"] == 3
    assert metrics["num_groups_no_signal"] == 2
    assert "verdict/infrastructure" not in metrics


def test_means_over_nothing_are_left_out() -> None:
    assert "reward_mean" not in rollout_metrics([OUR_FAULT])
    assert "pass_rate" not in rollout_metrics([OUR_FAULT])
    assert rollout_metrics([])["num_samples"] == 0
    assert "response_tokens_mean" not in rollout_metrics([])


def test_trainer_metrics_keep_their_names() -> None:
    metrics = trainer_metrics(StepMetrics(3, 0.5, 1.25, 1e-6, {"entropy": 0.7}))
    assert metrics == {"loss": 0.5, "grad_norm": 1.25, "learning_rate": 1e-6, "entropy": 0.7}


def test_tokens_per_s_leaves_evaluation_out() -> None:
    metrics = {"tokens/response": 300, "tokens/trained": 100, "seconds/step": 5.0, "seconds/evaluate": 2.0}
    assert step_seconds(metrics) == 3.0
    assert tokens_per_s(metrics) == {"tokens_per_s": 100.0}


def test_tokens_per_s_of_sft_counts_trained_tokens() -> None:
    assert tokens_per_s({"tokens/trained": 100, "seconds/step": 4.0}) == {"tokens_per_s": 25.0}


def test_reward_wait_is_a_share_of_the_step_without_evaluation() -> None:
    metrics = {"seconds/reward_wait": 0.5, "seconds/step": 12.0, "seconds/evaluate": 2.0}
    assert reward_wait(metrics) == {"reward_wait_s": 0.5, "reward_wait_share": 0.05}
    assert reward_wait({"seconds/step": 12.0}) == {}


@pytest.mark.parametrize("metrics", [{}, {"tokens/response": 3}, {"seconds/step": 2.0}])
def test_tokens_per_s_needs_both_numbers(metrics: dict[str, float]) -> None:
    assert tokens_per_s(metrics) == {}
