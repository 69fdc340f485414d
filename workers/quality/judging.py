"""What results are worth: each measure of each result and baseline, from scores and from models trained anew."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from upweight.schema import Measure, Noise, QualityJob, QualityRow
from workers.engine.progress import Progress
from workers.quality.measures import (
    Array,
    Measured,
    against_random,
    agreement,
    ceiling,
    lds,
    loo,
    mislabel_auc,
    recall_at,
)
from workers.quality.scores import Scores
from workers.quality.trainings import Places, Trainings, subset_of

DIVERGED = "a model that was trained anew has a test loss that is no number"


class Retrained(Protocol):
    """Models trained by the recipe, and what they make of the test rows."""

    def losses(self, subsets: Sequence[Places], seed: int) -> Array:
        """(S, m) after training on each subset from the recipe's start. `seed`: 0 is the recipe's own, others are told
        apart by it. Raises UpweightError where a training diverges."""
        ...

    def after_a_step(self, rows: Places, query: int) -> float:
        """The loss of a test row after one gradient step of the recipe's rate on these rows, from θ."""
        ...


@dataclass(frozen=True)
class Judged:
    """A result at one λ, or a baseline. `suspicion` (n,), high where a label may be wrong."""

    name: str
    scores: Scores | None  # None: of each row with itself alone
    suspicion: Callable[[], Array]
    method: str = ""
    damping: float | None = None
    baseline: bool = False
    per_query: bool = True  # whether it is worth trainings of its own

    def row(self, measure: str, found: Measured) -> QualityRow:
        """Of the table."""
        return QualityRow(
            result=self.name,
            baseline=self.baseline,
            method=self.method,
            damping=self.damping,
            measure=measure,
            value=found.value,
            low=found.low,
            high=found.high,
            n=found.count,
            pearson=found.pearson,
            interval=found.interval,
            note=found.note,
        )


@dataclass
class Judging:
    """All measures of a job over everything that is judged. `wrong` (n,): of the training rows."""

    request: QualityJob
    judged: Sequence[Judged]
    shape: tuple[int, int]  # test rows, training rows
    retrained: Retrained | None  # None: no measure needs it
    wrong: NDArray[np.bool_] | None
    progress: Progress
    noise: Noise | None = None

    def rows(self) -> Iterator[QualityRow]:
        """Measure by measure, results before baselines."""
        of: dict[Measure, Callable[[], Iterator[QualityRow]]] = {
            "lds": self._lds,
            "loo": self._loo,
            "mislabel": self._mislabel,
            "brittleness": self._brittleness,
            "tail_patch": self._tail_patch,
        }
        for measure in self.request.measures:
            yield from of[measure]()

    def trainings(self) -> Iterator[Trainings]:
        """All models that the measures look at, some of them more than once."""
        measures, request = self.request.measures, self.request
        if request.retrains:
            yield Trainings(
                0, without=((),)
            )  # of all rows, to see whether the recipe is the model's
        if "lds" in measures:
            for repeat in range(request.repeats):
                yield Trainings(repeat + 1, drawn=tuple(range(request.subsets)))
        if "loo" in measures:
            yield Trainings(0, without=tuple((row,) for row in self._left_out.tolist()))
        if "brittleness" in measures:
            yield Trainings(0, without=_as_tuples(self._random_rows()))
            for each, scores in self._scored("plan"):
                if each.per_query:
                    best = scores.best(request.k, self._queries)
                    yield Trainings(0, without=_as_tuples(best))

    def _lds(self) -> Iterator[QualityRow]:
        subsets = subsets_of(
            self.shape[1], self.request.subsets, self.request.share, self.request.seed
        )
        losses = np.stack(
            [
                _finite(self._models.losses(subsets, repeat + 1))
                for repeat in range(self.request.repeats)
            ]
        )
        agreed = agreement(losses, self.request.seed)
        self.noise = Noise(
            value=agreed.value,
            low=agreed.low,
            high=agreed.high,
            ceiling=ceiling(agreed.value, len(losses)),
            repeats=len(losses),
            note=agreed.note,
        )
        members = np.zeros((len(subsets), self.shape[1]), bool)
        for number, subset in enumerate(subsets):
            members[number, subset] = True
        outcomes = losses.mean(0)
        for each, scores in self._scored("lds"):
            yield each.row("lds", lds(scores.sums(members), outcomes, self.request.seed))

    def _loo(self) -> Iterator[QualityRow]:
        out, everything = self._left_out, np.arange(self.shape[1])
        losses = _finite(self._models.losses([np.delete(everything, row) for row in out], 0))
        for each, scores in self._scored("loo"):
            yield each.row("loo", loo(scores.columns(out.tolist()), losses, self.request.seed))

    def _mislabel(self) -> Iterator[QualityRow]:
        assert self.wrong is not None
        for number, each in enumerate(self.judged):
            self.progress("mislabel", number, len(self.judged), "results")
            suspicion = each.suspicion()
            yield each.row("mislabel", mislabel_auc(suspicion, self.wrong))
            yield each.row("recall", recall_at(suspicion, self.wrong))

    def _brittleness(self) -> Iterator[QualityRow]:
        everything = np.arange(self.shape[1])

        def without(rows: Places) -> Array:
            subsets = [np.setdiff1d(everything, some) for some in rows]
            return np.diagonal(_finite(self._models.losses(subsets, 0))[:, : len(rows)]).copy()

        at_random = without(self._random_rows())
        for each, scores in self._scored("brittleness"):
            if each.per_query:
                best = scores.best(self.request.k, self._queries)
                found = against_random(without(best), at_random, self.request.seed)
                yield each.row("brittleness", found)

    def _tail_patch(self) -> Iterator[QualityRow]:
        def stepped(rows: Places) -> Array:
            found = [self._models.after_a_step(some, query) for query, some in enumerate(rows)]
            return _finite(np.array(found))

        at_random = stepped(self._random_rows())
        for each, scores in self._scored("tail_patch"):
            if each.per_query:
                best = scores.best(self.request.k, self._queries)
                # The loss falls, so the other way round.
                found = against_random(at_random, stepped(best), self.request.seed)
                yield each.row("tail_patch", found)

    @property
    def _models(self) -> Retrained:
        assert self.retrained is not None
        return self.retrained

    @property
    def _left_out(self) -> Places:
        draw = np.random.default_rng([self.request.seed, 1])
        return np.sort(draw.permutation(self.shape[1])[: self.request.left_out])

    @property
    def _queries(self) -> range:
        return range(min(self.request.queries, self.shape[0]))

    def _random_rows(self) -> Places:
        drawn = [
            np.random.default_rng([self.request.seed, 2, query]).permutation(self.shape[1])
            for query in self._queries
        ]
        return np.stack(drawn)[:, : self.request.k]

    def _scored(self, stage: str) -> Iterator[tuple[Judged, Scores]]:
        for number, each in enumerate(self.judged):
            self.progress(stage, number, len(self.judged), "results")
            if each.scores is not None:
                yield each, each.scores


def subsets_of(total: int, count: int, share: float, seed: int) -> list[Places]:
    """The first ones of all random subsets."""
    return [subset_of(total, number, share, seed) for number in range(count)]


def _as_tuples(rows: Places) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(each) for each in np.sort(rows).tolist())


def _finite(losses: Array) -> Array:
    if not np.isfinite(losses).all():
        raise FloatingPointError(DIVERGED)
    return losses
