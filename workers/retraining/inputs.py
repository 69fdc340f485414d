"""What is trained, whatever the subset: the model, where it starts, the dataset's rows, their weights and labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from service.jobs.validation.subset import given_arrays, row_labels, row_weights
from service.storage.keys import Document
from service.storage.shared import digest_of
from upweight.errors import InvalidRequest
from upweight.schema import ColumnMatch, DatasetRecord, ModelRecord, Recipe, parse_rows
from workers.checks.rows import refuse_labels_out_of_range
from workers.datasets.columns import Columns
from workers.engine import Problem, Rows, Training, TrainingState
from workers.engine.progress import Progress, silent
from workers.jobs.results import versions
from workers.process.context import Context
from workers.programs.weights_by_name import theta_of
from workers.retraining.recipes import plan_of
from workers.retraining.rows import Relabelled

REVISION = 1  # of what a training comes to: grows where the same recipe would give other weights
DTYPES: dict[str | None, torch.dtype] = {"float32": torch.float32, "float64": torch.float64}


@dataclass(frozen=True)
class TrainingInputs:
    """Of one job. `rows` are all rows of the dataset, so that a subset is row numbers of it."""

    problem: Problem
    rows: Rows
    start: Tensor  # (p,)
    weights: Tensor | None  # (N,)
    recipe: Recipe
    seed: int
    model: ModelRecord
    dataset: DatasetRecord
    arrays: dict[str, Any]  # the job's `given`
    budget_bytes: int
    identity: str  # of all that decides the weights, but the subset

    @classmethod
    def load(
        cls,
        context: Context,
        namespace: str,
        job: Document,
        recipe: Recipe,
        *,
        precision: str | None,
        seed: int = 0,
        given: str | None = None,
        progress: Progress = silent,
    ) -> TrainingInputs:
        """By a job's record: its `model_id`, `train_id` and `matched`. `given`: the digest of its arrays.

        Raises UpweightError, EngineError, and what `progress` raises.
        """
        records, objects, session = context.records, context.objects, context.session
        model = ModelRecord.model_validate(records.get("model", namespace, job["model_id"]))
        problem = session.problem(namespace, model, DTYPES[precision], progress)
        dataset, columns = dataset_of(context, namespace, job, job["train_id"])
        session.require_unchanged(namespace, dataset)
        total = dataset.rows or 0
        rows = session.rows(namespace, dataset, columns, parse_rows(None, total), progress)
        arrays = given_arrays(objects, namespace, given)
        weighted = problem.plain is not problem
        rows = _relabelled(rows, arrays, total, weighted=weighted)
        pointer = "/train/dataset" if "labels" not in arrays else "/given"
        refuse_labels_out_of_range(problem.plain, problem.unweighted(rows), pointer, progress)
        start = problem.theta
        if recipe.start == "initial" and model.initial is not None:
            start = theta_of(objects, namespace, model.initial, problem.layout)
        weights = row_weights(arrays, total)
        begins = model.initial if recipe.start == "initial" else model.weights
        match = next(each for each in job["matched"] if each["dataset"] == dataset.id)
        arranged = [match[field] for field in ("inputs", "targets", "features")]
        marked = [
            given if {"weights", "labels"} & arrays.keys() else None,
            *(str(arrays[each].shape) for each in ("weights", "labels") if each in arrays),
        ]
        identity = digest_of(
            [REVISION, model.digest, model.selected and [s.name for s in model.selected], begins,
             precision, recipe.model_dump(mode="json"), seed, dataset.id, dataset.digest, arranged,
             marked, versions()["torch"]]
        )  # fmt: skip
        return cls(
            problem, rows, start, None if weights is None else torch.from_numpy(weights),
            recipe, seed, model, dataset, arrays, context.settings.memory_bytes, identity,
        )  # fmt: skip

    def training(
        self,
        subsets: Sequence[Tensor],
        *,
        state: TrainingState | None = None,
        progress: Progress = silent,
    ) -> Training:
        """Of models on their own subsets (n,) of the dataset's rows, the largest first."""
        return Training(
            self.problem,
            self.rows,
            subsets,
            plan_of(self.recipe, self.seed),
            self.start,
            weights=self.weights,
            state=state,
            budget_bytes=self.budget_bytes,
            progress=progress,
        )


def dataset_of(
    context: Context, namespace: str, job: Document, id: str
) -> tuple[DatasetRecord, Columns]:
    """A dataset of a job's, and the order of its columns."""
    dataset = DatasetRecord.model_validate(context.records.get("dataset", namespace, id))
    match = next(each for each in job["matched"] if each["dataset"] == id)
    return dataset, Columns.of(dataset, ColumnMatch.model_validate(match))


def _relabelled(rows: Rows, arrays: dict[str, Any], total: int, *, weighted: bool) -> Rows:
    found = row_labels(arrays, total)
    if found is None:
        return rows
    numbers, labels = found
    targets = rows.take(torch.zeros(1, dtype=torch.int64)).target_tensors
    if len(targets) != 1 + weighted:
        words = f"labels can be replaced where there is one target column, not {len(targets)}"
        raise InvalidRequest.field(
            "/given", f"{words}; register a dataset with the other labels", None
        )
    own = targets[0]
    if tuple(own.shape[1:]) != labels.shape[1:]:
        words = f"'labels' of a row have shape {list(labels.shape[1:])}; the dataset's have {list(own.shape[1:])}"
        raise InvalidRequest.field("/given", words, None)
    if not own.is_floating_point() and labels.dtype.kind not in "iub":
        raise InvalidRequest.field(
            "/given", "'labels' must be whole numbers, as the dataset's are", None
        )
    place = torch.full((total,), -1, dtype=torch.int64)
    place[torch.from_numpy(numbers)] = torch.arange(len(numbers))
    return Relabelled(rows, place, torch.from_numpy(np.array(labels)))
