"""The groups of a job's rows: which values of a column there are among them, in order, and how many have each."""

from __future__ import annotations

from collections import Counter
from math import prod
from typing import Literal

from service.datasets.ids import Value
from service.datasets.names import GroupColumn
from service.datasets.stored_rows import StoredRows
from service.jobs.validation.inputs import Chosen, Inputs
from service.jobs.validation.size import item_bytes
from service.parts import Parts
from service.settings import Settings
from upweight.errors import InvalidRequest
from upweight.schema import Group, Groups, InfluencesJob, parse_rows
from upweight.schema.aggregate import MAXIMUM_GROUPS
from upweight.schema.curvature import KINDS

Side = Literal["test", "train"]
_DOUBLE = 8  # bytes: what rows take away is solved for and added up in float64


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
    if side == "train" and job.groups is not None and chosen is not None:
        total = chosen.dataset.rows or 0
        counts = [len(parse_rows(str(each), total)) for each in job.groups]
        return [Group(name=at, value=at, rows=count) for at, count in enumerate(counts)]
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
    found: Counter[Value] = Counter()
    rows = chosen.rows.parts[0] if len(chosen.rows.parts) == 1 else list(chosen.rows)
    for values in grouped.values(rows):
        found.update(values)
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


def refuse_rescaling(settings: Settings, job: InfluencesJob, inputs: Inputs) -> None:
    """Raises InvalidRequest where it is not known what a set's rows take away of the curvature, or that is too much."""
    if not job.rescales:
        return
    _refuse_large_set(settings, job, inputs)
    why = None
    rows, hessian = inputs.train, inputs.hessian
    if job.curvature.structure != "full":
        why = f"of structure {job.curvature.structure!r} a set's own part can't be taken out; take 'full'"
    elif inputs.model.loss.name in KINDS["gauss_newton"].refused:
        why = f"the model's loss is {inputs.model.loss.name!r}, which has no Gauss-Newton matrix"
    elif job.factors is not None:
        why = "nothing is solved for with the 'factors' of an earlier job; leave them out"
    elif job.inversion.guess_field is not None and getattr(
        job.inversion, job.inversion.guess_field
    ):
        why = f"{job.inversion.guess_field!r} is a guess for the test rows alone; leave it out"
    elif hessian.dataset.id != rows.dataset.id or not set(rows.rows) <= set(hessian.rows):
        why = "the curvature is not over all these rows; leave 'hessian_on' out"
    if why is not None:
        words = (
            f"removing sets can't be rescaled: {why}, or set 'rescale' to false for the plain sums"
        )
        raise InvalidRequest.field("/rescale", words, True)


def rescaling_bytes(job: InfluencesJob, inputs: Inputs, rows: int) -> int:
    """What a worker holds for a set of so many rows: a direction for each row and output, and its solutions."""
    outputs, p = inputs.model.outputs, inputs.model.parameter_count or 0
    width = prod(each or 1 for each in outputs[0].shape[1:]) if outputs else 1
    return rows * width * p * (2 * item_bytes(job) + _DOUBLE * (1 + job.damping_count))


def _refuse_large_set(settings: Settings, job: InfluencesJob, inputs: Inputs) -> None:
    groups = inputs.groups.train if inputs.groups is not None else None
    for at, group in enumerate(groups or ()):
        needed = rescaling_bytes(job, inputs, group.rows)
        if needed > settings.memory_bytes:
            raise InvalidRequest.field(
                f"/groups/{at}",
                f"to rescale the removal of its {group.rows} rows takes about {needed} bytes, and a worker may use "
                f"{settings.memory_bytes}; take fewer rows, or set 'rescale' to false for the plain sums",
                None,
            )
