"""The rows that a job selects, with their groups and spans, and what is looked at on them before they are used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from service.datasets.stored_rows import StoredRows
from service.storage.keys import Document
from service.storage.shared import digest_of
from upweight.errors import InvalidRequest
from upweight.schema import (
    AttributionJob,
    ColumnMatch,
    DatasetRecord,
    Groups,
    InfluencesJob,
    ModelRecord,
    Selection,
    SpanMeasurement,
    parse_rows,
)
from workers.checks.rows import refuse_labels_out_of_range, refuse_mixed_rows
from workers.datasets.columns import Columns
from workers.engine import (
    VERIFIED,
    BadParameter,
    DerivativeCheck,
    Problem,
    Rows,
    SpannedRows,
    check_derivatives,
    refuse_outside,
)
from workers.engine.model.losses import Loss
from workers.engine.progress import Progress
from workers.jobs.table import Membership
from workers.process.context import Context
from workers.programs.fitting import only_verified

MASK = "attention_mask"  # 0 at tokens that pad
FEWEST_ROWS = 2  # of a check that needs some
SOME_NUMBERS_BYTES = 1024  # counted so that a warm worker lets go of them


@dataclass(frozen=True)
class RowsOfJob:
    """Selected rows; labels are held against `problem`, where it is given, and the first rows against each other."""

    context: Context
    namespace: str
    model: ModelRecord
    problem: Problem | None
    batch_size: int | None
    progress: Progress

    def of(
        self, dataset: DatasetRecord, match: ColumnMatch, selection: Selection, pointer: str
    ) -> Rows:
        chosen = parse_rows(selection.rows, dataset.rows or 0)
        rows = self.context.session.rows(
            self.namespace, dataset, Columns.of(dataset, match), chosen, self.progress
        )
        if self.problem is not None:
            self.context.session.require_unchanged(self.namespace, dataset)
            refuse_labels_out_of_range(
                self.problem.plain,
                self.problem.unweighted(rows),
                f"{pointer}/dataset",
                self.progress,
            )
            self._refuse_mixed(self.problem, match, rows)
        return rows

    def _refuse_mixed(self, problem: Problem, match: ColumnMatch, rows: Rows) -> None:
        """Once for a model and a dataset's columns as they meet it."""
        arranged = digest_of([match.dataset, *arrangement(match)])
        self.context.session.once(
            ("independent", self.namespace, self.model.id, arranged, str(problem.dtype)),
            lambda: refuse_mixed_rows(
                problem,
                rows,
                elsewhere=self.model.program.format == "factory",
                batch_size=self.batch_size,
                progress=self.progress,
            ),
        )


def arrangement(match: ColumnMatch) -> list[object]:
    """Of a dataset's columns: all of it that numbers depend on."""
    return [match.inputs, match.targets, match.features]


def members_of(
    context: Context, namespace: str, job: Document, request: AttributionJob
) -> dict[str, Membership]:
    """By side, the groups that its rows belong to; without the sides whose rows are not grouped."""
    found: dict[str, Membership] = {}
    groups = Groups.model_validate(job.get("groups") or {})
    if not isinstance(request, InfluencesJob):
        return found
    sides: tuple[Literal["test", "train"], ...] = ("test", "train")
    for side in sides:
        names = getattr(groups, side)
        if names is None:
            continue
        record = context.records.get("dataset", namespace, job[f"{side}_id"])
        dataset = DatasetRecord.model_validate(record)
        rows = parse_rows(getattr(request, side).rows, dataset.rows or 0)
        if side == "train" and request.groups is not None:
            places = {row: place for place, row in enumerate(rows)}
            sets = [parse_rows(str(each), dataset.rows or 0) for each in request.groups]
            found[side] = Membership.of_sets(
                [np.array(sorted(places[row] for row in each)) for each in sets]
            )
            continue
        assert request.aggregate is not None
        column = request.aggregate.column(side)
        mean = request.aggregate.reduction(side) == "mean"
        if column is None:
            found[side] = Membership.of_all(len(rows), mean=mean)
            continue
        shown = StoredRows.of(context, namespace, dataset)
        values = shown.values(column, list(rows))
        names_in_order = [each.value for each in names]
        found[side] = Membership.of_values(values, names_in_order, mean=mean)
    return found


def spanned(
    rows: Rows, asked: SpanMeasurement, numbers: Sequence[int], shown: StoredRows, loss: Loss
) -> SpannedRows:
    """The rows, whose numbers in the dataset these are, with their spans. Raises InvalidRequest for one outside."""

    def bound(given: int | str) -> Tensor:
        if isinstance(given, int):
            return torch.full((len(numbers),), given, dtype=torch.int64)
        return torch.tensor(shown.values(given, numbers), dtype=torch.int64)

    spans = [torch.stack([bound(each.start), bound(each.end)], 1) for each in asked.spans]
    bounds = torch.stack(spans, 1)
    try:
        refuse_outside(loss, rows, bounds, numbers)
    except BadParameter as error:
        raise InvalidRequest.field("/measurement", error.way_out, str(error.value)) from None
    return SpannedRows(rows, bounds)


def checked_derivatives(
    context: Context, model: tuple[str, str], problem: Problem, rows: Rows, *, twice: bool
) -> DerivativeCheck:
    """Once a model, by namespace and id: raises WrongDerivative where one can't be believed."""
    if only_verified(problem.module):
        return VERIFIED

    def made() -> tuple[DerivativeCheck, int]:
        found = check_derivatives(problem, next(iter(rows.batches(FEWEST_ROWS))), twice=twice)
        return found, SOME_NUMBERS_BYTES

    return context.session.kept(("derivatives", *model, str(twice)), made)
