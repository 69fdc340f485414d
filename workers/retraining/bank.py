"""Banks of retrained weights: a model's, by its recipe, on given subsets of a dataset's rows; found again by digest.

A bank is a folder named by all that decides the weights but the subset; a subset's weights are an object in it, stored
as soon as they are there. So a job that is tried again, and later jobs, go on with what is missing; and so workers
fill a bank together, each some groups of subsets that train as one program.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from service.lifecycle.states import now
from service.storage.layout import bank_folder
from service.storage.objects import Objects
from service.storage.tensors import read_tensor, write_tensors
from upweight.errors import ComputationFailed, InvalidRequest, UpweightError
from workers.engine import TrainingDiverged
from workers.engine.model.batching import activation_bytes
from workers.engine.progress import Progress, silent
from workers.fits.store import as_array
from workers.retraining.inputs import TrainingInputs

STAGE = "retrain"
MOST_TOGETHER = 128  # models of one batched program
LEAST_ALIKE = (
    0.8  # the smallest subset of a program, of the largest: what it lacks is computed for nothing
)
MOST_NAMED = 5  # that diverged, in one message
_COPIES = 6  # of the parameters: weights, gradient, moments, and what a step makes


@dataclass(frozen=True)
class Bank:
    """That of some inputs. `confirm` is called before anything is stored, and may raise."""

    objects: Objects
    namespace: str
    inputs: TrainingInputs
    progress: Progress = silent
    confirm: Callable[[], None] = lambda: None

    @property
    def id(self) -> str:
        """Its digest, by which it is listed and deleted."""
        return self.inputs.identity

    def has(self, subsets: Sequence[Any], stored: Container[str] | None = None) -> list[bool]:
        """Of each subset, whether its weights are there: now, or among what `stored` has said.

        Raises InvalidRequest for one that can't be trained on.
        """
        there = self.stored() if stored is None else stored
        return [self._path(rows) in there for rows in self._wanted(subsets)]

    def stored(self) -> frozenset[str]:
        """The weights that are there."""
        return frozenset(meta.path for meta in self.objects.walk(self._folder))

    def under(self, progress: Progress, confirm: Callable[[], None]) -> Bank:
        """The same, as another task fills it."""
        return replace(self, progress=progress, confirm=confirm)

    def fill(self, subsets: Sequence[Any], names: Sequence[str] = ()) -> None:
        """Trains subsets as one program, and stores them: which ones train together decides the last bits.

        `names`: what each is called where its training diverges.

        Raises InvalidRequest, and ComputationFailed where trainings diverge, once the others are stored.
        """
        wanted = self._wanted(subsets)
        self._describe()
        for _ in self._trained(wanted, range(len(wanted)), 0, names):
            pass

    def most_together(self) -> int:
        """How many models train as one program, within the memory that there is."""
        inputs = self.inputs
        item = inputs.problem.theta.element_size()
        one = _COPIES * inputs.problem.size * item + activation_bytes(inputs.problem, inputs.rows)
        return max(1, min(MOST_TOGETHER, inputs.budget_bytes // max(1, one)))

    def weights(self, subsets: Sequence[Any]) -> Iterator[tuple[int, Tensor]]:
        """θ (p,) of each subset, with its index: first of those that are there, then of the others as they are done.

        A subset is row numbers of the dataset, taken in ascending order. Raises InvalidRequest for an empty one,
        ComputationFailed where trainings diverge; what was done before is kept, and what trained together with them.
        """
        wanted = self._wanted(subsets)
        there = self.stored()
        missing: list[int] = []
        for index, rows in enumerate(wanted):
            found = self._stored(rows) if self._path(rows) in there else None
            if found is None:
                missing.append(index)
            else:
                yield index, found
        if missing:
            self._describe()
        done = len(wanted) - len(missing)
        for group in self._groups(wanted, missing):
            for index, theta in self._trained(wanted, group, done):
                yield index, theta
            done += len(group)

    def _wanted(self, subsets: Sequence[Any]) -> list[np.ndarray[Any, Any]]:
        total = len(self.inputs.rows)
        return [_sorted(each, index, total) for index, each in enumerate(subsets)]

    def _trained(
        self,
        wanted: Sequence[np.ndarray[Any, Any]],
        group: Sequence[int],
        before: int,
        names: Sequence[str] = (),
    ) -> Iterator[tuple[int, Tensor]]:
        def progress(stage: str, done: int, total: int, unit: str) -> None:
            reached = before + len(group) * done // max(1, total)
            self.progress(STAGE, reached, len(wanted), "models")

        group = sorted(group, key=lambda index: -len(wanted[index]))
        training = self.inputs.training(
            [torch.from_numpy(wanted[index]) for index in group], progress=progress
        )
        with suppress(TrainingDiverged):  # all of them have: none is left to go on with
            for _ in training.epochs():
                pass
        self.confirm()
        good = [each for each in range(len(group)) if each not in training.diverged]
        for each in good:
            theta = training.state.theta[each]
            write_tensors(self.objects, self._path(wanted[group[each]]), {"theta": as_array(theta)})
        if training.diverged:
            raise _diverged(training.diverged, lambda each: _name(group[each], names), len(good))
        for each in good:
            yield group[each], training.state.theta[each].clone()

    def _groups(
        self, wanted: Sequence[np.ndarray[Any, Any]], missing: Sequence[int]
    ) -> Iterator[list[int]]:
        """Subsets of nearly the same size, as many as fit: these train as one program."""
        sizes = [len(wanted[index]) for index in missing]
        for places in alike(sizes, self.most_together()):
            yield [missing[place] for place in places]

    def _stored(self, rows: np.ndarray[Any, Any]) -> Tensor | None:
        """On the device; None where it has been deleted."""
        try:
            theta = torch.tensor(read_tensor(self.objects, self._path(rows), "theta"))
        except FileNotFoundError:
            return None
        return theta.to(self.inputs.problem.device)

    def _describe(self) -> None:
        inputs = self.inputs
        described = {
            "model": {"id": inputs.model.id, "name": inputs.model.name, "version": inputs.model.version},
            "dataset": {
                "id": inputs.dataset.id, "name": inputs.dataset.name, "version": inputs.dataset.version,
            },
            "recipe": inputs.recipe.model_dump(mode="json"),
            "seed": inputs.seed,
            "parameters": inputs.problem.size,
            "created_at": now(),
        }  # fmt: skip
        path = f"{self._folder}/bank.json"
        if self.objects.head(path) is None:
            self.objects.put_first(path, json.dumps(described, sort_keys=True).encode())

    @property
    def _folder(self) -> str:
        return bank_folder(self.namespace, self.id)

    def _path(self, rows: np.ndarray[Any, Any]) -> str:
        name = hashlib.sha256(rows.tobytes()).hexdigest()
        return f"{self._folder}/{name}.safetensors"


def alike(sizes: Sequence[int], most: int) -> Iterator[list[int]]:
    """Places of subsets that train as one program: at most so many, the largest first, none much smaller than it."""
    group: list[int] = []
    for place in sorted(range(len(sizes)), key=lambda place: -sizes[place]):
        full = len(group) == most
        if group and (full or sizes[place] < LEAST_ALIKE * sizes[group[0]]):
            yield group
            group = []
        group.append(place)
    if group:
        yield group


def _name(index: int, names: Sequence[str]) -> str:
    return names[index] if names else f"subset {index}"


def _diverged(
    errors: Mapping[int, TrainingDiverged], name: Callable[[int], str], kept: int
) -> UpweightError:
    """Which trainings of a program diverged and when, the first in full, and how many of the others are kept."""
    (first, error), *others = errors.items()
    words = f"{name(first)}: {error}"
    if others:
        told = [f"{name(each)} in epoch {other.epoch}" for each, other in others[:MOST_NAMED]]
        left = f", and {len(others) - MOST_NAMED} more" if len(others) > MOST_NAMED else ""
        words += f". So did {', '.join(told)}{left}"
    if kept:
        words += f". The {kept} others that trained with {'them' if others else 'it'} are kept"
    return ComputationFailed.field("/recipe/lr", words, error.rate)


def _sorted(subset: Any, index: int, total: int) -> np.ndarray[Any, Any]:
    """Row numbers, ascending, int64. Raises InvalidRequest."""
    rows = np.unique(np.asarray(subset, dtype="<i8").reshape(-1))
    if not len(rows):
        words = f"subset {index} has no row to train on; take a larger share, or more rows"
        raise InvalidRequest.field("/subsets", words, index)
    if rows[0] < 0 or rows[-1] >= total:
        words = f"subset {index} has rows {rows[0]} to {rows[-1]}, and there are 0 to {total - 1}"
        raise InvalidRequest.field("/subsets", words, index)
    return rows
