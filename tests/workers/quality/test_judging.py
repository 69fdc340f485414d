"""The table of a quality job, over outcomes that follow from known influences."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from upweight.schema import QualityJob, QualityRow
from workers.quality.judging import Judged, Judging, subsets_of
from workers.quality.measures import Array
from workers.quality.scores import Scores, at_random
from workers.quality.trainings import Places

TEST, TRAIN = 5, 40
EFFECTS = np.random.default_rng(0).normal(size=(TEST, TRAIN))  # on minus the loss


class Linear:
    """Losses that fall by the effects of the rows trained on, and a little noise by the seed."""

    def __init__(self, noise: float = 0.0) -> None:
        self.noise = noise
        self.asked: list[tuple[int, int]] = []

    def losses(self, subsets: Sequence[Places], seed: int) -> Array:
        self.asked.append((len(subsets), seed))
        rng = np.random.default_rng(seed)
        found = np.stack([-EFFECTS[:, rows].sum(1) for rows in subsets])
        return found + self.noise * rng.normal(size=found.shape)

    def after_a_step(self, rows: Places, query: int) -> float:
        return float(-EFFECTS[query, rows].sum())


def exact(name: str = "exact", values: np.ndarray = EFFECTS) -> Judged:
    def blocks():
        yield slice(0, TEST), slice(0, TRAIN), values

    scores = Scores(name, (TEST, TRAIN), blocks)
    return Judged(name, scores, lambda: -scores.means(), damping=0.1)


def judged(*measures: str, trainer: Linear | None = None, **fields) -> list[QualityRow]:
    return list(judging(*measures, trainer=trainer, **fields).rows())


def judging(*measures: str, trainer: Linear | None = None, **fields) -> Judging:
    wrong = np.arange(TRAIN) < 4 if "mislabel" in measures else None
    request = QualityJob(
        model="m",
        train={"dataset": "d"},
        results=["job_" + "0" * 26],
        measures=measures,
        wrong="0:4" if "mislabel" in measures else None,
        **fields,
    )
    random = at_random(TEST, TRAIN, 1)
    baseline = Judged("random", random, lambda: -random.means(), baseline=True, per_query=False)
    return Judging(
        request, [exact(), baseline], (TEST, TRAIN), trainer or Linear(), wrong, lambda *_: None
    )


@pytest.mark.parametrize("measure", ["lds", "loo"])
def test_scores_that_are_the_effects_correlate_fully_and_random_ones_do_not(measure: str) -> None:
    found, random = judged(measure)
    assert found.value == pytest.approx(1.0)
    assert found.n == TEST
    assert random.baseline
    assert random.value is not None
    assert abs(random.value) < 0.5


@pytest.mark.parametrize("measure", ["brittleness", "tail_patch"])
def test_removing_or_stepping_on_the_best_rows_does_more_than_random_ones(measure: str) -> None:
    (found,) = judged(measure, k=6)
    best = np.sort(EFFECTS, 1)[:, -6:].sum(1)
    drawn = [
        EFFECTS[query, np.random.default_rng([0, 2, query]).permutation(TRAIN)[:6]].sum()
        for query in range(TEST)
    ]
    assert found.value == pytest.approx(float(np.mean(best - drawn)))
    assert found.low is not None
    assert found.low > 0


def test_no_more_queries_than_are_asked_for_are_trained_for() -> None:
    trainer = Linear()
    (found,) = judged("brittleness", trainer=trainer, k=3, queries=2)
    assert trainer.asked == [(2, 0), (2, 0)]
    assert found.n == 2


def test_wrong_labels_are_told_by_harm() -> None:
    auc, recall, *_ = judged("mislabel")
    harm = -EFFECTS.mean(0)
    pairs = [(harm[bad] > harm[good]) for bad in range(4) for good in range(4, TRAIN)]
    assert auc.value == pytest.approx(np.mean(pairs))
    assert (auc.measure, recall.measure) == ("mislabel", "recall")


def test_repeats_are_other_seeds_and_tell_the_noise() -> None:
    trainer = Linear(noise=2.0)
    looking = judging("lds", trainer=trainer, repeats=3, subsets=200)
    found, _ = looking.rows()
    assert [seed for _, seed in trainer.asked] == [1, 2, 3]
    assert looking.noise is not None
    assert looking.noise.value is not None
    assert 0.5 < looking.noise.value < 0.95
    # The effects are the truth: as near to noisy outcomes as anything can be.
    assert found.value == pytest.approx(looking.noise.ceiling, abs=0.03)


def test_one_repeat_tells_no_noise() -> None:
    looking = judging("lds", repeats=1)
    list(looking.rows())
    assert looking.noise is not None
    assert looking.noise.value is None
    assert looking.noise.note == "one repeat alone; ask for 2 or more"


def test_a_training_that_diverged_is_an_error() -> None:
    class Diverging(Linear):
        def losses(self, subsets: Sequence[Places], seed: int) -> Array:
            return super().losses(subsets, seed) * np.nan

    with pytest.raises(FloatingPointError, match="no number"):
        judged("lds", trainer=Diverging())


def test_subsets_have_their_share_of_rows_without_repetition_and_stay_when_there_are_more() -> None:
    few, many = subsets_of(41, 3, 0.5, 7), subsets_of(41, 30, 0.5, 7)
    for one, same in zip(few, many, strict=False):
        np.testing.assert_array_equal(one, same)
        assert len(np.unique(one)) == 20
    assert len({tuple(each) for each in many}) == 30
