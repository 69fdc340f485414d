"""Which models a quality job trains, in groups that train as one program: its plan, made once, whoever does them."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from upweight.schema import QualityJob
from workers.retraining.bank import MOST_NAMED, Bank, alike

Places = NDArray[np.int64]  # of training rows, as columns of the matrix count them
FREE_FLOPS = 2e9  # below this nothing is worth timing
_FLOPS = 6.0  # of a gradient, a row and parameter
FEWEST_TOGETHER = 8  # models of a block, where they are spread: a program of fewer takes as long
SHARED_BY = 16  # blocks at least, where a job is spread and each has models enough


@dataclass(frozen=True)
class Trainings:
    """Models of one seed: on random subsets, by their numbers, or on all rows but some."""

    seed: int  # added to the recipe's
    drawn: tuple[int, ...] = ()
    without: tuple[tuple[int, ...], ...] = ()

    def __len__(self) -> int:
        return len(self.drawn) + len(self.without)

    @property
    def names(self) -> list[str]:
        """What each model is called in messages."""
        drawn = [f"subset {number}" for number in self.drawn]
        return drawn + [_without(places) for places in self.without]

    def subsets(self, request: QualityJob, total: int) -> list[Places]:
        """Of `total` training rows, in order."""
        drawn = [subset_of(total, number, request.share, request.seed) for number in self.drawn]
        return drawn + [np.delete(np.arange(total), list(places)) for places in self.without]

    def only(self, chosen: Iterable[int]) -> Trainings:
        """Some of them, by their places."""
        places = list(chosen)
        if self.drawn:
            return Trainings(self.seed, tuple(self.drawn[each] for each in places))
        return Trainings(self.seed, (), tuple(self.without[each] for each in places))

    def to_json(self) -> dict[str, Any]:
        """As a plan holds it."""
        return {"seed": self.seed, "drawn": self.drawn, "without": self.without}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Trainings:
        """The inverse of `to_json`."""
        without = tuple(tuple(places) for places in document["without"])
        return cls(document["seed"], tuple(document["drawn"]), without)


def _without(places: Sequence[int]) -> str:
    if not places:
        return "all rows"
    told = ", ".join(map(str, places[:MOST_NAMED]))
    left = f" and {len(places) - MOST_NAMED} more" if len(places) > MOST_NAMED else ""
    return f"without row{'s' if len(places) > 1 else ''} {told}{left} of the training rows"


def subset_of(total: int, number: int, share: float, seed: int) -> Places:
    """Random rows without repetition, in order: by its number and the seed alone, however many subsets there are."""
    drawn = np.random.default_rng([seed, 0, number]).permutation(total)
    return np.sort(drawn[: round(share * total)])


@dataclass(frozen=True)
class TrainingPlan:
    """The groups that are missing in the banks, and whether they are blocks that all workers do."""

    groups: Sequence[Trainings]
    spread: bool
    threads: int

    def to_json(self) -> dict[str, Any]:
        """Whole, as the object storage has it."""
        groups = [each.to_json() for each in self.groups]
        return {"groups": groups, "spread": self.spread, "threads": self.threads}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> TrainingPlan:
        """The inverse of `to_json`."""
        groups = [Trainings.from_json(each) for each in document["groups"]]
        return cls(groups, document["spread"], document["threads"])

    def told(self) -> dict[str, Any]:
        """As the job's record has it."""
        return {
            "stages": {"retrain": len(self.groups), "finish": 1},
            "models": sum(map(len, self.groups)),
            "threads": self.threads,
        }


def grouped(missing: Iterable[Trainings], most: int, total: int) -> Iterator[Trainings]:
    """Groups of at most so many models of one seed, each on nearly as many of `total` training rows."""
    by_seed: dict[tuple[int, bool], list[Trainings]] = {}
    for each in missing:
        by_seed.setdefault((each.seed, bool(each.drawn)), []).append(each)
    for (seed, _), several in by_seed.items():
        drawn = tuple(number for each in several for number in each.drawn)
        without = tuple(places for each in several for places in each.without)
        whole = Trainings(seed, drawn, without)
        sizes = [total] * len(drawn) + [total - len(places) for places in without]
        for places in alike(sizes, most):
            yield whole.only(places)


def estimated_seconds(bank: Bank, groups: Sequence[Trainings], subsets: Sequence[Places]) -> float:
    """Of all groups on this worker: by timing some steps of the largest, whose `subsets` of dataset rows
    these are, the largest first."""
    recipe, rows = bank.inputs.recipe, len(subsets[0])
    models = sum(map(len, groups))
    if _FLOPS * bank.inputs.problem.size * rows * recipe.epochs * models < FREE_FLOPS:
        return 0.0
    return models / len(subsets) * recipe.steps(rows) * _step_seconds(bank, subsets)


def _step_seconds(bank: Bank, subsets: Sequence[Places]) -> float:
    """The quicker of two steps, the first of which builds the program."""
    training = bank.inputs.training([torch.from_numpy(each) for each in subsets])
    found = []
    for _ in range(2):
        began = time.monotonic()
        training.trial()
        found.append(time.monotonic() - began)
    return min(found)
