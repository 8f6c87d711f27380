import itertools
import math
import random

import pytest

from nemo_acereason.evaluation.pass_at_k import avg_at_k, pass_at_k


def brute_force(num_samples: int, num_correct: int, k: int) -> float:
    """The share of all k-subsets of the samples that hold a correct one."""
    samples = [True] * num_correct + [False] * (num_samples - num_correct)
    subsets = list(itertools.combinations(samples, k))
    return sum(any(subset) for subset in subsets) / len(subsets)


def test_pass_at_k_equals_counting_subsets() -> None:
    for num_samples in range(1, 9):
        for num_correct in range(num_samples + 1):
            for k in range(1, num_samples + 1):
                expected = brute_force(num_samples, num_correct, k)
                assert pass_at_k(num_samples, num_correct, k) == pytest.approx(expected, rel=1e-12), (
                    num_samples,
                    num_correct,
                    k,
                )


def test_pass_at_1_is_the_share_of_correct_samples() -> None:
    assert pass_at_k(64, 13, 1) == pytest.approx(13 / 64, rel=1e-12)


def test_pass_at_k_is_exact_for_large_counts() -> None:
    exact = 1 - math.comb(99_000, 1000) / math.comb(100_000, 1000)
    assert pass_at_k(100_000, 1000, 1000) == pytest.approx(exact, rel=1e-9)
    # 1 - product would lose half of these digits
    assert pass_at_k(10**9, 1, 3) == pytest.approx(3e-9, rel=1e-12)


@pytest.mark.parametrize(("num_samples", "num_correct", "k"), [(4, 2, 0), (4, 2, 5), (4, 5, 1), (4, -1, 1), (0, 0, 1)])
def test_impossible_counts_are_refused(num_samples: int, num_correct: int, k: int) -> None:
    with pytest.raises(ValueError, match="want"):
        pass_at_k(num_samples, num_correct, k)


def test_avg_at_k_and_its_errors_by_hand() -> None:
    estimate = avg_at_k([(4, 1), (4, 3)])
    assert estimate.mean == 0.5
    # each p(1-p)/(n-1) = 0.1875/3 = 0.0625; their sum's root over 2 problems
    assert estimate.stderr_samples == pytest.approx(math.sqrt(0.125) / 2)
    # shares 0.25 and 0.75: variance 0.125, over 2 problems
    assert estimate.stderr_problems == pytest.approx(math.sqrt(0.125 / 2))


def test_problems_weigh_alike_whatever_their_number_of_samples() -> None:
    assert avg_at_k([(8, 8), (2, 0)]).mean == 0.5


def test_errors_that_cannot_be_known_are_nan() -> None:
    assert math.isnan(avg_at_k([(4, 1)]).stderr_problems)
    assert math.isnan(avg_at_k([(1, 1), (4, 1)]).stderr_samples)
    assert avg_at_k([(1, 1), (1, 0)]).stderr_problems == pytest.approx(0.5)


def test_errors_match_what_repeated_draws_scatter_by() -> None:
    rng = random.Random(0)
    chances = [rng.random() for _ in range(40)]
    draws = [[(8, sum(rng.random() < p for _ in range(8))) for p in chances] for _ in range(400)]
    means = [avg_at_k(draw).mean for draw in draws]
    centre = sum(means) / len(means)
    scatter = math.sqrt(sum((mean - centre) ** 2 for mean in means) / (len(means) - 1))
    claimed = sum(avg_at_k(draw).stderr_samples for draw in draws) / len(draws)
    assert claimed == pytest.approx(scatter, rel=0.1)


def test_no_problems_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        avg_at_k([])
