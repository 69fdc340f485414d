"""The result of a job that has succeeded: where it lies, its shape, and which rows its positions mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from service.answers.positions import positions
from service.datasets.stored_rows import StoredRows
from service.parts import Parts
from service.registry import find_job
from service.storage.layout import ResultPaths
from service.storage.objects import Objects
from upweight.errors import InvalidRequest, NotStored, ResultExpired, ResultNotReady
from upweight.schema import (
    TERMINAL,
    DatasetRecord,
    Group,
    JobRecord,
    JobState,
    ResultLayout,
    ResultSummary,
    Rows,
    Selection,
    parse_rows,
)

SAME_DAMPING = 1e-6  # of a λ: what is written with a few digits less is the same


@dataclass(frozen=True)
class StoredResult:
    """One job's result."""

    parts: Parts
    namespace: str
    job: JobRecord
    summary: ResultSummary

    @cached_property
    def paths(self) -> ResultPaths:
        """Where its objects lie."""
        return ResultPaths(self.namespace, self.job.id)

    @property
    def layout(self) -> ResultLayout:
        """How its parts are cut into objects. Raises NotStored for a result of a version that cut otherwise."""
        if self.summary.layout is None:
            raise NotStored(
                f"the result of job {self.job.id} was stored by an earlier version of this service, in a layout that "
                "this one does not read; start the job again with the same request"
            )
        return self.summary.layout

    @property
    def objects(self) -> Objects:
        """The storage that it lies in."""
        return self.parts.objects

    @property
    def dampings(self) -> list[float] | None:
        """The λ's of a list, which all arrays have a first axis of; None where λ was one."""
        return self.summary.dampings

    @property
    def influence_shape(self) -> list[int]:
        """(test rows, training rows, …), of each λ."""
        shape = self.summary.influence_shape or [0, 0]
        return shape if self.dampings is None or len(shape) == 1 else shape[1:]

    @property
    def part_shape(self) -> list[int]:
        """Of the parts of one influence, where they are stored."""
        return self.summary.part_shape or []

    @property
    def factor_shape(self) -> list[int]:
        """(rows, parameters), of each λ."""
        return (self.summary.factor_shape or [0, 0])[-2:]

    def has(self, what: str) -> bool:
        """Whether it holds `matrix`, `top`, `mean`, `factors`, `gradients`, `products` or `info`."""
        return what in self.summary.stored

    def require(self, what: str) -> None:
        """Raises NotStored."""
        if not self.has(what):
            stored = ", ".join(self.summary.stored) or "nothing"
            ways = {"gradients": "of kind 'gradients'", "products": "of kind 'hvp'"}
            way = ways.get(what, f"with keep.{what}")
            raise NotStored(
                f"job {self.job.id} did not store {what!r}, but {stored}; start one {way}"
            )

    def groups(self, side: Literal["test", "train"]) -> list[Group] | None:
        """Those along the axis of a side; None where it has rows."""
        found = self.job.groups
        return None if found is None else getattr(found, side)

    def train_rows(self) -> Rows:
        """The training dataset's row for each column; groups count themselves."""
        if self.groups("train") is not None:
            return parse_rows(None, self.influence_shape[1])
        return self._rows(self.job.train_id, self.job.request.train)

    def test_rows(self) -> Rows:
        """The test dataset's row for each row; right-hand sides of a job's own count themselves."""
        selection = getattr(self.job.request, "test", None)
        if self.job.test_id is None or selection is None or self.groups("test") is not None:
            return parse_rows(None, self.influence_shape[0])
        return self._rows(self.job.test_id, selection)

    def ids(self, side: Literal["test", "train"], rows: Sequence[int]) -> list[int | str]:
        """Of rows of a side's dataset; the rows' own numbers where it has no ids, or there is no dataset. Of groups
        their names."""
        groups = self.groups(side)
        if groups is not None:
            names = [groups[row].name for row in rows]
            return [name if isinstance(name, str) else _plain(name) for name in names]
        dataset_id = self.job.train_id if side == "train" else self.job.test_id
        if dataset_id is None:
            return list(rows)
        found = self.parts.records.get("dataset", self.namespace, dataset_id)
        if found.get("ids") is None:
            return list(rows)
        dataset = DatasetRecord.model_validate(found)
        return StoredRows.of(self.parts, self.namespace, dataset).ids(rows)

    def _rows(self, dataset_id: str, selection: Selection) -> Rows:
        dataset = self.parts.records.get("dataset", self.namespace, dataset_id)
        return parse_rows(selection.rows, dataset["rows"])


def _plain(name: bool | float) -> int | str:
    """A whole number as it is, all else in words."""
    return name if isinstance(name, int) and not isinstance(name, bool) else str(name)


def find_result(parts: Parts, namespace: str, id: str) -> StoredResult:
    """Raises NotFound, ResultNotReady, ResultExpired."""
    job = JobRecord.model_validate(find_job(parts, namespace, id))
    if job.state is JobState.SUCCEEDED and job.expired_at is not None:
        raise ResultExpired(
            f"the result of job {id} expired on {job.expired_at:%Y-%m-%d}; start a job with the same request again"
        )
    if job.state is JobState.SUCCEEDED and job.result is not None:
        return StoredResult(parts, namespace, job, job.result)
    if job.state in TERMINAL:  # no Retry-After: waiting does not help
        reason = f": {job.problem.detail}" if job.problem else ""
        raise ResultNotReady(
            f"job {id} has {job.state}{reason}; it has no result unless it is retried (POST /v1/jobs/{id}/retry)"
        )
    error = ResultNotReady(
        f"job {id} is {job.state}; GET /v1/jobs/{id}?wait=60 holds until it has ended",
        retry_after=1,
    )
    error.progress = job.progress
    raise error


@dataclass(frozen=True)
class Layers:
    """Which λ's of a result are meant: their numbers, and whether the answer has an axis of them.

    `numbers` is None where the result has no such axis.
    """

    numbers: Sequence[int] | None
    axis: bool

    def named(self, name: str) -> list[str]:
        """The tensors that are meant, where one called so is kept for each λ."""
        return [name] if self.numbers is None else [f"{name}.{number}" for number in self.numbers]

    @property
    def each(self) -> Sequence[int | None]:
        """Their numbers; None for a result without the axis."""
        return [None] if self.numbers is None else self.numbers


def chosen_layers(result: StoredResult, damping: float | None, index: str | None) -> Layers:
    """By value, which leaves no axis; by positions; or all. Raises InvalidRequest, which names the λ's there are."""
    there = result.dampings
    if damping is not None and index is not None:
        words = "damping and damping_index choose the same; give one of them"
        raise InvalidRequest.field("query:damping_index", words, index)
    if damping is not None:
        values = there if there is not None else [_only(result)]
        near = min(range(len(values)), key=lambda at: abs(values[at] - damping))
        if not abs(values[near] - damping) <= SAME_DAMPING * abs(values[near]):
            words = f"{damping:g} is no λ of job {result.job.id}; there are {listed(values)}"
            raise InvalidRequest.field("query:damping", words, damping)
        return Layers(None if there is None else [near], axis=False)
    if index is not None and there is None:
        words = (
            f"job {result.job.id} has one λ, {_only(result):g}, and no axis of them; leave this out"
        )
        raise InvalidRequest.field("query:damping_index", words, index)
    if there is None:
        return Layers(None, axis=False)
    return Layers(list(positions(index, len(there), "damping_index")), axis=True)


def one_layer(result: StoredResult, damping: float | None, index: str | None) -> Layers:
    """As `chosen_layers`, of what there is one of: a list's λ must be said. Raises InvalidRequest."""
    layers = chosen_layers(result, damping, index)
    if layers.numbers is not None and len(layers.numbers) != 1:
        words = f"say which λ, by damping or damping_index: job {result.job.id} has {listed(result.dampings or [])}"
        raise InvalidRequest.field("query:damping", words, None)
    return Layers(layers.numbers, axis=False)


def listed(values: Sequence[float]) -> str:
    """λ's for people, with every digit."""
    return ", ".join(map(repr, values))


def _only(result: StoredResult) -> float:
    """The λ of a job that has one."""
    found = result.job.damping
    asked = getattr(result.job.request, "hessian_regularization", None)
    return (
        found.values[0]
        if found is not None
        else float(asked)
        if isinstance(asked, float | int)
        else 0.0
    )
