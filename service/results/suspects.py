"""Training rows in the order in which their labels deserve a look, each with a score from 0, suspect, to 1."""

from __future__ import annotations

import numpy as np

from service.answers.formats import Array
from service.results.predictions import Predictions
from service.results.ranking import refuse_directions
from service.results.slices import SELF_INFLUENCES, mean, self_influences
from service.results.stored import Layers, StoredResult
from upweight.errors import NotStored
from upweight.schema import Suspect, Suspects


def suspects(result: StoredResult, layers: Layers, offset: int, limit: int) -> Suspects:
    """Rows from `offset` on, at most `limit`: those of most influence on themselves first, or those of the most
    harmful mean influence on the test rows. Rows whose influence is no finite number are left out.

    The score of a row is the share of the rows that are more suspect, of equal ones the half, itself among them.
    Holds a few numbers for each training row. Raises NotStored.
    """
    if result.groups("train") is not None:
        raise NotStored(
            f"job {result.job.id} has groups of training rows, and suspects are rows; take /top, or start a job "
            "without 'aggregate.train'"
        )
    if result.has(SELF_INFLUENCES):
        by, numbers = "self_influences", self_influences(result, layers)
    elif result.has("mean") or result.has("matrix"):
        by, numbers = "mean", mean(result, layers)
    else:
        stored = ", ".join(result.summary.stored) or "nothing"
        raise NotStored(
            f"job {result.job.id} stored {stored}; suspects come from the mean influence (keep.mean or keep.matrix), "
            "or from a job of kind self_influences"
        )
    refuse_directions(numbers.shape)
    influences = numbers.whole()
    measured = result.job.request.measured
    if measured.better is None:
        raise NotStored(
            f"job {result.job.id} explains a logit, of which neither direction speaks for or against a label; take the "
            "loss, the margin or the label's logit"
        )
    falls = by == "self_influences" or measured.better == "high"
    order, scores = ranked(-influences if falls else influences)
    chosen = order[offset : offset + limit]
    every = result.train_rows()
    rows = [every[int(column)] for column in chosen]
    found = (
        Predictions.of(result, "train").at(chosen.tolist()).items
        if result.has("train_predictions")
        else [None] * len(chosen)
    )
    items = [
        Suspect(
            id=id,
            row=row,
            column=int(column),
            score=float(score),
            influence=float(influences[column]),
            label=None if seen is None else seen.target,
            predicted=None if seen is None else seen.prediction,
        )
        for id, row, column, score, seen in zip(
            result.ids("train", rows), rows, chosen, scores[offset:], found, strict=False
        )
    ]
    return Suspects(by=by, total=len(order), items=items)


def ranked(values: Array) -> tuple[Array, Array]:
    """Columns from the smallest value on, equal ones by column, and the score of each of them; NaN is left out."""
    columns = np.flatnonzero(np.isfinite(values))
    order = columns[np.argsort(values[columns], kind="stable")]
    ordered = values[order]
    below = np.searchsorted(ordered, ordered, side="left")
    upto = np.searchsorted(ordered, ordered, side="right")
    return order, (below + upto) / (2.0 * max(1, len(order)))
