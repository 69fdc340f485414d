"""Each measure beside a plain computation of its own, and what it says where it is not defined."""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
import pytest
from scipy import stats

from workers.quality.measures import (
    Measured,
    against_random,
    agreement,
    ceiling,
    lds,
    loo,
    mislabel_auc,
    recall_at,
)

RNG = np.random.default_rng(7)


def drawn(subsets: int = 30, test_rows: int = 6) -> tuple[np.ndarray, np.ndarray]:
    sums = RNG.normal(size=(subsets, test_rows))
    return sums, RNG.normal(size=(subsets, test_rows)) - 0.8 * sums


def finite(measured: Measured) -> bool:
    numbers = [each for each in dataclasses.astuple(measured) if isinstance(each, float)]
    return all(map(math.isfinite, numbers))


def test_lds_is_the_mean_of_spearmans_coefficients_of_the_sums_with_minus_the_losses() -> None:
    sums, losses = drawn()
    each = [
        stats.spearmanr(one, -other).statistic for one, other in zip(sums.T, losses.T, strict=True)
    ]
    pearson = [np.corrcoef(one, -other)[0, 1] for one, other in zip(sums.T, losses.T, strict=True)]
    found = lds(sums, losses)
    assert found.value == pytest.approx(np.mean(each), abs=1e-12)
    assert found.pearson == pytest.approx(np.mean(pearson), abs=1e-12)
    assert found.count == 6


def test_lds_is_1_where_helpful_rows_lower_the_loss_and_minus_1_the_other_way_round() -> None:
    sums = RNG.normal(size=(20, 3))
    assert lds(sums, -(sums**3)).value == pytest.approx(1.0)
    assert lds(sums, sums**3).value == pytest.approx(-1.0)


def test_loo_is_1_where_the_loss_rises_without_a_helpful_row() -> None:
    influences = RNG.normal(size=(20, 3))
    assert loo(influences, 2.0 + influences).value == pytest.approx(1.0)


def test_ties_have_their_mean_rank() -> None:
    sums = RNG.integers(0, 4, (40, 5)).astype(float)
    losses = RNG.integers(0, 3, (40, 5)).astype(float)
    each = [
        stats.spearmanr(one, -other).statistic for one, other in zip(sums.T, losses.T, strict=True)
    ]
    assert lds(sums, losses).value == pytest.approx(np.mean(each), abs=1e-12)


def test_the_interval_covers_the_true_value_about_as_often_as_it_says() -> None:
    rho, covered, times = 0.5, 0, 60
    expected = 6 / math.pi * math.asin(rho / 2)  # Spearman's, of a normal pair
    rng = np.random.default_rng(0)
    for number in range(times):
        pair = rng.multivariate_normal([0, 0], [[1, rho], [rho, 1]], size=(50, 4))
        found = lds(pair[..., 0], -pair[..., 1], seed=number)
        assert found.low is not None
        assert found.high is not None
        assert found.low <= found.high
        covered += found.low <= expected <= found.high
    assert covered >= 0.85 * times  # of 0.95; below 0.85 by chance once in a thousand


@pytest.mark.parametrize("noise", [1e-3, 0.05, 1.0])
def test_a_value_lies_within_its_interval_however_near_to_1_it_is(noise: float) -> None:
    truth = RNG.normal(size=(100, 50))
    found = lds(truth, -truth + noise * RNG.normal(size=truth.shape))
    assert found.low is not None
    assert found.high is not None
    assert found.value is not None
    assert found.low < found.value <= found.high <= 1.0


def test_an_interval_is_the_same_for_the_same_seed() -> None:
    sums, losses = drawn()
    assert lds(sums, losses, seed=3) == lds(sums, losses, seed=3)
    assert lds(sums, losses, seed=3).low != lds(sums, losses, seed=4).low


def test_test_rows_without_a_correlation_are_left_out_and_counted() -> None:
    sums, losses = drawn(test_rows=3)
    losses[:, 1] = 5.0
    found = lds(sums, losses)
    assert found.value == pytest.approx(lds(sums[:, [0, 2]], losses[:, [0, 2]]).value)
    assert found.count == 2
    assert found.note is not None
    assert "1 of 3 test rows" in found.note
    assert finite(found)


@pytest.mark.parametrize("side", ["scores", "outcomes"])
def test_constant_scores_or_outcomes_are_no_number_with_a_reason(side: str) -> None:
    varying, constant = RNG.normal(size=(10, 2)), np.full((10, 2), 0.1)
    found = lds(constant, varying) if side == "scores" else lds(varying, constant)
    assert (found.value, found.low, found.high) == (None, None, None)
    assert found.note == "scores or outcomes are the same for all subsets"


def test_two_subsets_are_too_few() -> None:
    found = lds(*drawn(subsets=2))
    assert found.value is None
    assert found.note is not None
    assert "3 or more" in found.note


@pytest.mark.parametrize(("subsets", "test_rows"), [(3, 1), (3, 5), (50, 1)])
def test_few_subsets_and_one_test_row_have_finite_intervals(subsets: int, test_rows: int) -> None:
    found = lds(*drawn(subsets, test_rows))
    assert found.value is not None
    assert finite(found)


def test_very_small_and_very_large_numbers_do_not_vanish() -> None:
    sums = RNG.normal(size=(20, 2))
    assert lds(sums * 1e-200, sums * 1e200).pearson == pytest.approx(-1.0)


def test_nan_in_outcomes_is_refused() -> None:
    sums, losses = drawn()
    losses[0, 0] = np.nan
    with pytest.raises(ValueError, match="outcomes have NaN"):
        lds(sums, losses)


def test_agreement_is_the_mean_over_pairs_of_seeds_and_test_rows() -> None:
    losses = RNG.normal(size=(1, 25, 4)) + RNG.normal(size=(3, 25, 4))
    each = [
        stats.spearmanr(losses[one, :, row], losses[other, :, row]).statistic
        for one, other in itertools.combinations(range(3), 2)
        for row in range(4)
    ]
    assert agreement(losses).value == pytest.approx(np.mean(each), abs=1e-12)


def test_agreement_of_one_seed_is_no_number() -> None:
    assert agreement(RNG.normal(size=(1, 25, 4))).value is None


def test_the_ceiling_is_what_the_truth_reaches_with_the_mean_of_noisy_repeats() -> None:
    rng = np.random.default_rng(1)
    truth = rng.normal(size=200_000)
    noisy = truth + rng.normal(size=(3, 200_000))
    agreed = float(np.corrcoef(noisy[0], noisy[1])[0, 1])
    expected = float(np.corrcoef(truth, noisy.mean(0))[0, 1])
    assert ceiling(agreed, 3) == pytest.approx(expected, abs=0.01)
    assert ceiling(-0.1, 3) is None
    assert ceiling(None, 3) is None


def test_mislabel_auc_is_that_of_scikit_learn_with_ties() -> None:
    wrong = RNG.random(200) < 0.2
    suspicion = np.round(RNG.normal(size=200) + wrong, 1)
    found = mislabel_auc(suspicion, wrong)
    # Here, as it takes seconds, which all who collect tests would take.
    from sklearn.metrics import roc_auc_score

    assert found.value == pytest.approx(roc_auc_score(wrong, suspicion), abs=1e-12)
    assert found.low is not None
    assert found.high is not None
    assert found.low < found.value < found.high


def test_the_interval_of_an_auc_is_as_wide_as_draws_vary() -> None:
    rng = np.random.default_rng(5)
    wrong = np.arange(300) < 60
    from sklearn.metrics import roc_auc_score

    values = [float(roc_auc_score(wrong, rng.normal(size=300) + wrong)) for _ in range(200)]
    found = mislabel_auc(rng.normal(size=300) + wrong, wrong)
    assert found.low is not None
    assert found.high is not None
    assert (found.high - found.low) / 2 / 1.96 == pytest.approx(np.std(values), rel=0.25)


@pytest.mark.parametrize("wrong", [np.zeros(5, bool), np.ones(5, bool)])
def test_labels_all_of_one_kind_have_no_auc(wrong: np.ndarray) -> None:
    assert mislabel_auc(np.arange(5.0), wrong).value is None


def test_recall_at_k_counts_the_wrong_among_the_most_suspicious() -> None:
    suspicion = np.array([9.0, 8.0, 7.0, 6.0, 5.0])
    wrong = np.array([True, False, True, False, True])
    assert recall_at(suspicion, wrong, 2).value == pytest.approx(1 / 3)
    assert recall_at(suspicion, wrong).value == pytest.approx(2 / 3)
    assert recall_at(suspicion, wrong, 99).value == pytest.approx(1.0)
    assert recall_at(suspicion, ~wrong & wrong).value is None


def test_recall_counts_ties_at_the_border_in_part() -> None:
    suspicion, wrong = np.zeros(10), np.arange(10) < 4
    assert recall_at(suspicion, wrong, 5).value == pytest.approx(0.5)


def test_against_random_is_the_mean_difference_with_an_interval_over_test_rows() -> None:
    changed, at_random = RNG.normal(1.0, 1.0, 40), RNG.normal(size=40)
    found = against_random(changed, at_random)
    assert found.value == pytest.approx(float((changed - at_random).mean()))
    assert found.low is not None
    assert found.high is not None
    assert found.low < found.value < found.high
    error = float((changed - at_random).std(ddof=1)) / 40**0.5
    assert (found.high - found.low) / 2 / 1.96 == pytest.approx(error, rel=0.2)


def test_one_test_row_has_a_difference_without_an_interval() -> None:
    found = against_random(np.array([2.0]), np.array([0.5]))
    assert (found.value, found.low, found.high) == (1.5, None, None)
