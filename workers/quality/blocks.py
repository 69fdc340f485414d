"""The blocks of a quality job that is spread over workers: groups of models, into banks that all of them fill."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from service.storage.layout import ResultPaths
from service.storage.objects import Objects
from upweight.schema import QualityJob
from workers.jobs.attempt import Blocks
from workers.jobs.blocks import Cost
from workers.jobs.results import versions
from workers.process.watch import Watch
from workers.quality.trainings import Places, TrainingPlan, Trainings
from workers.retraining.bank import Bank


@dataclass(frozen=True)
class BankBlocks(Blocks):
    """`rows`: the dataset's row of each training row. `bank_of` gives the bank of a seed, under a watch; `end` judges
    what was trained, and ends the job."""

    request: QualityJob
    rows: Places
    plan: TrainingPlan
    bank_of: Callable[[int, Watch], Bank]
    end: Callable[[Watch], None]
    watch: Watch  # of the block at which they were loaded
    _banks: dict[int, Bank] = field(default_factory=dict)

    def there(self, stage: str, count: int) -> Iterable[int]:
        """The groups whose models are all stored."""
        groups = self.plan.groups[:count]
        banks = {group.seed: self._bank(group.seed, self.watch) for group in groups}
        stored = {seed: bank.stored() for seed, bank in banks.items()}  # listed once for all groups
        return [
            number
            for number, group in enumerate(groups)
            if all(banks[group.seed].has(self._subsets(group), stored[group.seed]))
        ]

    def is_there(self, stage: str, number: int, watch: Watch) -> bool:
        """Whether all models of a group are stored. A group that is there in part is trained as a whole."""
        group = self.plan.groups[number]
        return all(self._bank(group.seed, watch).has(self._subsets(group)))

    def execute(self, stage: str, number: int, watch: Watch) -> tuple[str, Cost]:
        """Trains a group and stores its models."""
        group, began = self.plan.groups[number], time.monotonic()
        subsets = self._subsets(group)
        bank = self._bank(group.seed, watch)
        bank.fill(subsets, group.names)
        epochs = bank.inputs.recipe.epochs
        seen = epochs * sum(map(len, subsets))
        return "", Cost(gradient_rows=seen, seconds=time.monotonic() - began)

    def finish(self, watch: Watch) -> None:
        """Judges, and ends the job."""
        self.end(watch)

    def _subsets(self, group: Trainings) -> list[Places]:
        return [self.rows[each] for each in group.subsets(self.request, len(self.rows))]

    def _bank(self, seed: int, watch: Watch) -> Bank:
        if seed not in self._banks:
            self._banks[seed] = self.bank_of(seed, watch)
        return self._banks[seed].under(watch.progress, watch.confirm)


def stored_plan(objects: Objects, paths: ResultPaths) -> TrainingPlan | None:
    """That of an earlier attempt; None where there is none, or its models came from other versions."""
    try:
        document = json.loads(objects.get(paths.plan))
    except FileNotFoundError:
        return None
    return TrainingPlan.from_json(document["plan"]) if document["versions"] == versions() else None


def store_plan(objects: Objects, paths: ResultPaths, plan: TrainingPlan) -> None:
    """For later attempts, and for the workers that do its blocks."""
    document = {"plan": plan.to_json(), "versions": versions()}
    objects.put(paths.plan, json.dumps(document, sort_keys=True).encode())
