"""Measures of attribution against retraining, each with a 95 % interval; NumPy and SciPy alone.

Influence is POSITIVE where a training row is helpful: trained on it, the test row's loss is lower. So the sum of a
subset's influences is held against MINUS the loss after training on that subset (LDS), and the influence of a row
that is left out against PLUS the loss after training without it (leave-one-out).

Nothing here is ever NaN: what is not defined is None, with the reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

FEWEST = 3  # points: any two lie on a line
LEVEL = 0.95
# Draws of the bootstrap: enough for two digits of an interval, fewer where ranks of many numbers are taken anew.
MOST_DRAWS, FEWEST_DRAWS, WORK = 500, 100, 5_000_000
AT_ONCE = 1_000_000  # numbers that are ranked together
PAIRED = "95 % percentile bootstrap over subsets and test rows together, centred on the value"


@dataclass(frozen=True)
class Measured:
    """A mean with its interval, and what it is the mean over. None where it is not defined; `note` says why."""

    value: float | None
    low: float | None = None
    high: float | None = None
    count: int = 0  # that the value is the mean over, as test rows
    pearson: float | None = None
    interval: str | None = None  # how it was found
    note: str | None = None


def lds(sums: Array, losses: Array, seed: int = 0) -> Measured:
    """The linear datamodeling score: Spearman's coefficient over subsets, mean over test rows (Park et al., 2023).

    `sums` (S, m): of the influences of a subset's rows on a test row. `losses` (S, m): of the test row after training
    on that subset.
    """
    return correlated(sums, -np.asarray(losses, np.float64), seed)


def loo(influences: Array, losses: Array, seed: int = 0) -> Measured:
    """The same where a point is a row that was left out.

    `influences` (k, m) of the rows left out; `losses` (k, m) after training without each.
    """
    return correlated(influences, losses, seed)


def correlated(predicted: Array, outcomes: Array, seed: int = 0) -> Measured:
    """Mean over columns of Spearman's coefficient along the first axis, Pearson's beside it. Both are (S, m)."""
    predicted, outcomes = _same_shape(predicted, outcomes)
    return _mean_of_pairs([(predicted, outcomes)], seed)


def agreement(losses: Array, seed: int = 0) -> Measured:
    """How far retrainings that differ by their seed alone agree: of losses (repeats, S, m), Spearman's over subsets.

    The mean over test rows and over pairs of repeats. No score can follow one retraining better than about the
    square root of this: it is the noise that no method can predict.
    """
    losses = np.asarray(losses, np.float64)
    if len(losses) < 2:
        return Measured(None, note="one repeat alone; ask for 2 or more")
    return _mean_of_pairs(list(combinations(losses, 2)), seed)


def ceiling(agreed: float | None, repeats: int) -> float | None:
    """The correlation that a prediction without any error would reach with the mean of so many repeats.

    `agreed` is the correlation of two repeats. Exact for Pearson's (Spearman-Brown), near for Spearman's.
    """
    if agreed is None or agreed <= 0.0:
        return None
    return float(np.sqrt(repeats * agreed / (1.0 + (repeats - 1) * agreed)))


def mislabel_auc(suspicion: Array, wrong: NDArray[np.bool_]) -> Measured:
    """The chance that a wrong label is more suspicious than a right one, ties half; interval of DeLong et al. (1988).

    `suspicion` (n,), high is suspicious; `wrong` (n,), the labels known to be wrong.
    """
    suspicion, wrong = np.asarray(suspicion, np.float64), np.asarray(wrong, bool)
    bad, good = suspicion[wrong], suspicion[~wrong]
    if not len(bad) or not len(good):
        what = "wrong" if not len(bad) else "right"
        return Measured(None, note=f"no label is known to be {what}")
    # Of each wrong label, the share of right ones below it; and of each right one, the share of wrong ones above it.
    below = (_ranks(suspicion)[wrong] - _ranks(bad)) / len(good)
    above = 1.0 - (_ranks(suspicion)[~wrong] - _ranks(good)) / len(bad)
    value = float(below.mean())
    variance = sum(float(each.var(ddof=1)) / len(each) for each in (below, above) if len(each) > 1)
    reach = float(_stats().norm.ppf((1 + LEVEL) / 2)) * variance**0.5
    known = len(bad) > 1 and len(good) > 1
    return Measured(
        value,
        max(0.0, value - reach) if known else None,
        min(1.0, value + reach) if known else None,
        count=len(bad),
        interval="95 % by DeLong's variance" if known else None,
        note=None if known else "no interval from one label of a kind",
    )


def recall_at(suspicion: Array, wrong: NDArray[np.bool_], k: int | None = None) -> Measured:
    """The share of the wrong labels among the k most suspicious rows, k = their number by default; ties count in part.

    The interval is Wilson's of that share.
    """
    suspicion, wrong = np.asarray(suspicion, np.float64), np.asarray(wrong, bool)
    count = int(wrong.sum())
    if not count:
        return Measured(None, note="no label is known to be wrong")
    k = min(count if k is None else k, len(wrong))
    border = np.partition(suspicion, len(suspicion) - k)[len(suspicion) - k]
    surely, tied = suspicion > border, suspicion == border
    share = (k - surely.sum()) / tied.sum()
    found = float((wrong & surely).sum() + share * (wrong & tied).sum())
    interval = _stats().binomtest(round(found), count).proportion_ci(LEVEL, method="wilson")
    return Measured(
        found / count,
        min(float(interval.low), found / count),
        max(float(interval.high), found / count),
        count=count,
        interval="95 % Wilson",
        note=f"among the {k} most suspicious",
    )


def against_random(changed: Array, at_random: Array, seed: int = 0) -> Measured:
    """Mean over test rows of an outcome less that of random rows (m,), bootstrapped over test rows."""
    differences = np.asarray(changed, np.float64) - np.asarray(at_random, np.float64)
    if not len(differences):
        return Measured(None, note="no test row")
    value = float(differences.mean())
    if len(differences) < 2:
        return Measured(value, count=1, note="no interval from one test row")
    found = (
        _stats()
        .bootstrap(
            (differences,),
            np.mean,
            n_resamples=MOST_DRAWS,
            confidence_level=LEVEL,
            method="percentile",
            rng=np.random.default_rng(seed),
        )
        .confidence_interval
    )
    how = "95 % percentile bootstrap over test rows"
    return Measured(value, float(found.low), float(found.high), len(differences), interval=how)


def spearman(one: Array, other: Array) -> Array:
    """Along the last axis but one; ties have their mean rank. NaN, for callers here alone, where a side is constant."""
    return pearson(_ranks(one), _ranks(other))


def pearson(one: Array, other: Array) -> Array:
    """Along the last axis but one. NaN, for callers here alone, where a side is constant."""
    varies = (np.ptp(one, axis=-2) > 0) & (np.ptp(other, axis=-2) > 0)
    one, other = (_unit(each - each.mean(-2, keepdims=True)) for each in (one, other))
    return np.where(varies, np.clip((one * other).sum(-2), -1.0, 1.0), np.nan)


def _unit(centred: Array) -> Array:
    # By its largest first: squares of very small numbers would be 0.
    largest = np.abs(centred).max(-2, keepdims=True)
    scaled = centred / np.where(largest > 0, largest, 1.0)
    length = np.sqrt((scaled**2).sum(-2, keepdims=True))
    return np.asarray(scaled / np.where(length > 0, length, 1.0), np.float64)


def _ranks(values: Array) -> Array:
    return np.asarray(_stats().rankdata(values, axis=-2 if values.ndim > 1 else 0), np.float64)


def _stats() -> Any:
    """SciPy's, imported by the first quality job: it is a fifth of what a worker would import before any job."""
    from scipy import stats

    return stats


def _same_shape(predicted: Array, outcomes: Array) -> tuple[Array, Array]:
    predicted, outcomes = (np.asarray(each, np.float64) for each in (predicted, outcomes))
    if predicted.shape != outcomes.shape or predicted.ndim != 2:
        raise ValueError(f"predictions {predicted.shape} and outcomes {outcomes.shape} must match")
    for name, each in (("predictions", predicted), ("outcomes", outcomes)):
        if not np.isfinite(each).all():
            raise ValueError(f"{name} have NaN or infinity")
    return predicted, outcomes


def _mean(values: Array) -> float | None:
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else None


def _mean_of_pairs(pairs: Sequence[tuple[Array, Array]], seed: int) -> Measured:
    """Spearman's coefficient of each pair (S, m), the mean over what is defined, with its interval."""
    points, columns = pairs[0][0].shape
    if points < FEWEST:
        return Measured(
            None, note=f"{points} subsets are too few for a rank; take {FEWEST} or more"
        )
    ranked = np.stack([spearman(*pair) for pair in pairs])
    value = _mean(ranked)
    if value is None:
        return Measured(None, note="scores or outcomes are the same for all subsets")
    # A subset that is drawn twice ties with itself, and moves ranks a little to one side: hence centred.
    draws = _resampled(pairs, seed)
    ends = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]) + (value - np.median(draws))
    low, high = np.clip(ends, -1.0, 1.0)
    undefined = int(np.isnan(ranked).all(0).sum())
    note = f"{undefined} of {columns} test rows are left out: scores or outcomes do not vary"
    return Measured(
        value,
        float(low),
        float(high),
        columns - undefined,
        _mean(np.stack([pearson(*pair) for pair in pairs])),
        PAIRED,
        note if undefined else None,
    )


def _resampled(pairs: Sequence[tuple[Array, Array]], seed: int) -> Array:
    """The mean in draws of subsets and of test rows, with repetition, where it is defined."""
    points, columns = pairs[0][0].shape
    size, rng = points * columns, np.random.default_rng(seed)
    draws = int(np.clip(WORK // (2 * len(pairs) * size), FEWEST_DRAWS, MOST_DRAWS))
    found: list[Array] = []
    together = max(1, AT_ONCE // size)
    for start in range(0, draws, together):
        count = min(together, draws - start)
        rows = rng.integers(0, points, (count, points, 1))
        chosen = rng.integers(0, columns, (count, 1, columns))
        each = np.stack(
            [spearman(one[rows, chosen], other[rows, chosen]) for one, other in pairs], 1
        ).reshape(count, -1)
        defined = ~np.isnan(each)
        some = defined.any(1)
        sums = np.where(defined, each, 0.0).sum(1)
        found.append(sums[some] / defined.sum(1)[some])
    return np.concatenate(found)
