"""The groups of a job's rows: which values of a column there are among them, in order, and how many have each."""

from __future__ import annotations

from collections import Counter
from typing import Literal

from service.datasets.names import GroupColumn
from service.datasets.stored_rows import StoredRows
from service.jobs.validation.inputs import Chosen, Inputs
from service.parts import Parts
from upweight.errors import InvalidRequest
from upweight.schema import Group, Groups, InfluencesJob
from upweight.schema.aggregate import MAXIMUM_GROUPS

_AT_ONCE = 50_000
Side = Literal["test", "train"]


def groups_of(parts: Parts, namespace: str, job: InfluencesJob, inputs: Inputs) -> Groups | None:
    """None for a job that groups no rows. Raises InvalidRequest."""
    if not job.tabulates:
        return None
    return Groups(
        test=_side(parts, namespace, job, inputs.test, "test"),
        train=_side(parts, namespace, job, inputs.train, "train"),
    )


def _side(
    parts: Parts, namespace: str, job: InfluencesJob, chosen: Chosen | None, side: Side
) -> list[Group] | None:
    if job.aggregate is None or job.aggregate.reduction(side) is None:
        return None
    pointer = f"/aggregate/{side}"
    if chosen is None:
        raise InvalidRequest.field(
            pointer,
            "the factors are solutions for right-hand sides of their own; give 'test' rows to group",
            None,
        )
    column = job.aggregate.column(side)
    if column is None:
        name = str(job.aggregate.reduction(side))
        return [Group(name=name, value=name, rows=len(chosen.rows))]
    grouped = GroupColumn.of(StoredRows.of(parts, namespace, chosen.dataset), column, pointer)
    found: Counter[bool | int | float | str] = Counter()
    rows = chosen.rows.parts[0] if len(chosen.rows.parts) == 1 else list(chosen.rows)
    for start in range(0, len(rows), _AT_ONCE):
        found.update(grouped.values(rows[start : start + _AT_ONCE]))
        if len(found) > MAXIMUM_GROUPS:
            raise InvalidRequest.field(
                pointer,
                f"column {column!r} has more than {MAXIMUM_GROUPS} values among these rows, and each is a "
                "group; take a column with fewer",
                column,
            )
    return [
        Group(name=grouped.called(value), value=value, rows=found[value]) for value in sorted(found)
    ]
