"""Indexes: made once of the training rows, and asked which of them help and harm rows that come later."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from upweight.client.computations import Model, plain_damping
from upweight.client.jobs import create
from upweight.client.options import Damping
from upweight.client.paging import Listing, items, items_async, listing
from upweight.client.request import (
    SHORT_FORMS,
    Choice,
    Referable,
    reference,
    selection,
    written_out,
)
from upweight.errors import NotFound
from upweight.http import polling
from upweight.http.flow import Flow
from upweight.http.transport import AsyncTransport, Transport
from upweight.progress import Bars
from upweight.results.blocking import IndexResult
from upweight.results.coroutines import AsyncIndexResult
from upweight.results.rows import RowChoice
from upweight.schema import JobRecord, JobState

KIND, STRUCTURE = "index", "ekfac"


def request_of(
    name: str | None,
    model: Model,
    train: Choice,
    *,
    dimension: int | None = None,
    projection: str | Mapping[str, Any] | BaseModel | None = None,
    stored_as: str | None = None,
    curvature: Any = None,
    hessian_regularization: Damping = None,
    train_rows: RowChoice | None = None,
    extends: str | None = None,
    **options: Any,
) -> dict[str, Any]:
    """The job's fields; what is None is left to the service."""
    fields: dict[str, Any] = {
        "kind": KIND,
        "model": reference(model),
        "train": selection(train, train_rows),
        **options,
    }
    given = {
        "name": name,
        "dimension": dimension,
        "projection": _plain(projection),
        "stored_as": stored_as,
        "curvature": _structured(curvature),
        "hessian_regularization": plain_damping(hessian_regularization),
        "extends": extends,
    }
    return fields | {field: value for field, value in given.items() if value is not None}


def _plain(projection: str | Mapping[str, Any] | BaseModel | None) -> Any:
    if isinstance(projection, BaseModel):
        return projection.model_dump(mode="json")
    return dict(projection) if isinstance(projection, Mapping) else projection


def _structured(curvature: Any) -> Any:
    """A structure alone is short for the Fisher matrix's, and a kind alone for its EK-FAC."""
    if isinstance(curvature, BaseModel):
        return curvature.model_dump(mode="json")
    if isinstance(curvature, str):
        if curvature in SHORT_FORMS:
            return written_out(curvature, None)[1]
        return {"kind": curvature, "structure": STRUCTURE}
    return None if curvature is None else dict(curvature)


def _listing(model: Referable | None, limit: int | None, search: str | None) -> Listing[JobRecord]:
    return listing(
        "/v1/jobs", JobRecord, limit=limit, order="desc", labels=None, kind=KIND, search=search,
        model=None if model is None else reference(model),
    )  # fmt: skip


def found(index: str | JobRecord, named: Listing[JobRecord]) -> Flow[JobRecord]:
    """By id, or the newest of a name that is there, or is to be. Raises NotFound."""
    if isinstance(index, JobRecord) or index.startswith("job_"):
        return (yield from polling.fetch(reference(index)))
    after: str | None = None
    newest: JobRecord | None = None
    while True:
        page = yield from named.page(after, 0)
        for record in page.items:
            if record.name == index and record.state is JobState.SUCCEEDED:
                return record
            newest = newest or (record if record.name == index else None)
        if not page.has_more:
            if newest is not None:
                return newest
            raise NotFound(
                f"there is no index named {index!r}; client.indexes.list() has those there are"
            )
        after = page.next_after


@dataclass(frozen=True)
class Indexes:
    """`client.indexes`: made of a model and its training rows, and asked about rows that come later."""

    _link: Transport
    _bars: Bars

    def create(
        self,
        name: str | None,
        model: Model,
        train: Choice,
        dimension: int | None = None,
        *,
        projection: str | Mapping[str, Any] | BaseModel | None = None,
        stored_as: str | None = None,
        curvature: Any = None,
        hessian_regularization: Damping = None,
        train_rows: RowChoice | None = None,
        extends: Any = None,
        **options: Any,
    ) -> IndexResult:
        """Starts an index; `.wait()` until it is there, then `.query(x=…, y=…)`.

        `dimension`: numbers that are kept of a row's gradient, a layer on the mean, 512 by default. `projection`:
        `eigenvectors` of the curvature (the default), or `random`, which is built faster and finds fewer of the
        strongest rows by its numbers alone; `{"method": "random", "seed": …}` for a draw of its own. `stored_as`: what
        each is stored as, `float16` (2 bytes, the default) or `int8` (1 byte). `curvature`: `ekfac` (of the Fisher
        matrix, the default), `kfac`, `layers`, `diagonal`, or a kind or `{"kind": …, "structure": …}`.
        `hessian_regularization`: λ, by default `auto`. `extends`: an index, or its id or name, whose rows are the first
        of these, so that the new ones alone are computed. `options`: fields of the job, such as `precision`,
        `priority`, `labels`.
        """
        earlier = None if extends is None else _id(extends) or self.get(extends).id
        fields = request_of(
            name, model, train, dimension=dimension, projection=projection, stored_as=stored_as, curvature=curvature,
            hessian_regularization=hessian_regularization, train_rows=train_rows, extends=earlier, **options,
        )  # fmt: skip
        return IndexResult(self._link, self._bars, self._link.run(create(fields)))

    def get(self, index: str | JobRecord) -> IndexResult:
        """By its id, or the newest of a name."""
        named = _listing(None, None, index if isinstance(index, str) else None)
        return IndexResult(self._link, self._bars, self._link.run(found(index, named)))

    def list(
        self, *, model: Referable | None = None, limit: int | None = None, search: str | None = None
    ) -> Iterator[JobRecord]:
        """The records of all indexes, newest first."""
        return items(self._link, _listing(model, limit, search))

    def delete(self, index: str | JobRecord | IndexResult) -> None:
        """Removes an index and what it stored."""
        self._link.run(polling.delete(_id(index) or self.get(index).id))  # type: ignore[arg-type]


@dataclass(frozen=True)
class AsyncIndexes:
    """`client.indexes` of an AsyncClient."""

    _link: AsyncTransport
    _bars: Bars

    async def create(
        self,
        name: str | None,
        model: Model,
        train: Choice,
        dimension: int | None = None,
        *,
        projection: str | Mapping[str, Any] | BaseModel | None = None,
        stored_as: str | None = None,
        curvature: Any = None,
        hessian_regularization: Damping = None,
        train_rows: RowChoice | None = None,
        extends: Any = None,
        **options: Any,
    ) -> AsyncIndexResult:
        """As `Indexes.create`, awaited."""
        earlier = None if extends is None else _id(extends) or (await self.get(extends)).id
        fields = request_of(
            name, model, train, dimension=dimension, projection=projection, stored_as=stored_as, curvature=curvature,
            hessian_regularization=hessian_regularization, train_rows=train_rows, extends=earlier, **options,
        )  # fmt: skip
        return AsyncIndexResult(self._link, self._bars, await self._link.run(create(fields)))

    async def get(self, index: str | JobRecord) -> AsyncIndexResult:
        """By its id, or the newest of a name."""
        named = _listing(None, None, index if isinstance(index, str) else None)
        record = await self._link.run(found(index, named))
        return AsyncIndexResult(self._link, self._bars, record)

    def list(
        self, *, model: Referable | None = None, limit: int | None = None, search: str | None = None
    ) -> AsyncIterator[JobRecord]:
        """The records of all indexes, newest first. Iterate with `async for`."""
        return items_async(self._link, _listing(model, limit, search))

    async def delete(self, index: str | JobRecord | AsyncIndexResult) -> None:
        """Removes an index and what it stored."""
        id = _id(index) or (await self.get(index)).id  # type: ignore[arg-type]
        await self._link.run(polling.delete(id))


def _id(index: Any) -> str | None:
    """Of a handle, a record or an id; None of a name."""
    if isinstance(index, Mapping):
        return None
    own = index if isinstance(index, str) else reference(getattr(index, "job", index))
    return own if own.startswith("job_") else None
