"""Training a model anew on chosen rows, and the banks of retrained weights."""

from __future__ import annotations

import builtins
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

import upweight.late.numpy as np
from upweight.client.blobs import put
from upweight.client.computations import Model
from upweight.client.content import arrays_content
from upweight.client.datasets import dropped_rows, marked
from upweight.client.jobs import create
from upweight.client.models import MODELS
from upweight.client.request import Choice, named_ids, reference, selection
from upweight.errors import InvalidRequest
from upweight.http.flow import Call, Flow, Work, segment
from upweight.http.polling import until_ended, waited_for
from upweight.http.transport import AsyncTransport, Transport
from upweight.progress import Bars
from upweight.results.rows import RowChoice, named_rows, record_of, rows_text
from upweight.schema import Bank, Banks, JobRecord, ModelRecord

WRITTEN = 500  # rows; more are sent as an array
_ASKED = 100  # ids at a time
_BANKS = "/v1/banks"


def retrain(
    bars: Bars,
    hold: float,
    model: Model,
    train: Choice,
    *,
    rows: RowChoice | None = None,
    drop: RowChoice | None = None,
    weights: Mapping[int, float] | Sequence[float] | Any = None,
    labels: Mapping[int, int] | Sequence[int] | Any = None,
    test: Choice | None = None,
    test_rows: RowChoice | None = None,
    name: str | None = None,
    recipe: Any = None,
    seed: int = 0,
    timeout: float | None = None,
    progress: bool | None = None,
    **options: Any,
) -> Flow[ModelRecord]:
    """The model that the job gives, once it has trained."""
    fields = yield from request_of(
        bars, model, train, rows=rows, drop=drop, weights=weights, labels=labels, test=test,
        test_rows=test_rows, name=name, recipe=recipe, seed=seed,
    )  # fmt: skip
    record = yield from create({**fields, **options})
    record = yield from until_ended(
        record.id, bars, record=record, timeout=timeout, progress=progress, hold=hold
    )
    return (yield from made_by(waited_for(record)))


def made_by(record: JobRecord) -> Flow[ModelRecord]:
    """The model of a retraining that has succeeded."""
    assert record.model is not None
    return (yield from MODELS.get(record.model.id))


def request_of(
    bars: Bars,
    model: Model,
    train: Choice,
    *,
    rows: RowChoice | None = None,
    drop: RowChoice | None = None,
    weights: Any = None,
    labels: Any = None,
    test: Choice | None = None,
    test_rows: RowChoice | None = None,
    name: str | None = None,
    recipe: Any = None,
    seed: int = 0,
) -> Flow[dict[str, Any]]:
    """The job's fields; what is long is uploaded first."""
    arrays: dict[str, Any] = {}
    ids = named_ids(rows)
    if rows is not None and ids is None and _is_long(rows):
        arrays["rows"], rows = _numbers("rows", rows), None
    chosen = selection(train, rows)
    fields: dict[str, Any] = {"kind": "retrain", "model": reference(model), "train": chosen}
    left_out = yield from _left_out(drop, chosen["dataset"])
    if isinstance(left_out, np.ndarray):
        arrays["drop"] = left_out
    elif left_out:
        fields["drop"] = left_out
    arrays |= yield from _by_row("weights", "weight_rows", weights, float, chosen["dataset"])
    arrays |= yield from _by_row("labels", "label_rows", labels, None, chosen["dataset"])
    if arrays:
        content = yield Work(lambda: arrays_content(arrays, "rows of a retraining"))
        fields["given"] = (yield from put(content, bars)).digest
    if test is not None:
        fields["test"] = selection(test, test_rows)
    if recipe is not None:
        plain = recipe.model_dump(mode="json") if isinstance(recipe, BaseModel) else dict(recipe)
        fields["recipe"] = plain
    if name is not None:
        fields["name"] = name
    if seed:
        fields["seed"] = seed
    return fields


def _left_out(drop: Any, dataset: str) -> Flow[Any]:
    """As the job takes it: text, a list of names, or an array of many numbers to be uploaded."""
    if drop is None:
        return None
    found = dropped_rows(drop)
    if isinstance(found, np.ndarray):  # a mask
        return _short(marked(found, (yield from record_of(dataset))))
    if isinstance(found, list) and len(found) > WRITTEN:
        record = yield from record_of(dataset)  # numbers, or ids that are numbers?
        return found if record.ids is not None else _short(found)
    return found


def _is_long(rows: Any) -> bool:
    return not isinstance(rows, str | int | slice | range | Mapping) and len(rows) > WRITTEN


def _short(numbers: list[Any]) -> Any:
    """Numbers as text; as an array, to be uploaded, where they are many."""
    return rows_text(numbers) if len(numbers) <= WRITTEN else _numbers("drop", numbers)


def _numbers(name: str, rows: Any) -> Any:
    found = np.asarray(rows)
    if found.ndim != 1 or found.dtype.kind not in "iu":
        raise InvalidRequest.field(
            f"/{name}",
            f"rows are named by whole numbers or by ids that are texts, on one axis, not by {found.dtype} "
            f"{found.shape}; where ids are numbers, give the numbers of their rows",
            None,
        )
    return found.astype(np.int64)


def _by_row(name: str, at: str, given: Any, dtype: Any, dataset: str) -> Flow[dict[str, Any]]:
    """An array for all rows as it is; of {row: value} or {id: value} the rows beside the values."""
    if given is None:
        return {}
    if isinstance(given, Mapping):
        if not given:
            return {}
        ids = named_ids(list(given))
        rows = _numbers(name, list(given)) if ids is None else (yield from _rows_of(ids, dataset))
        return {name: np.asarray(list(given.values()), dtype=dtype), at: rows}
    values = given.detach().cpu().numpy() if hasattr(given, "detach") else given
    return {name: np.asarray(values, dtype=dtype)}


def _rows_of(ids: Sequence[str], dataset: str) -> Flow[Any]:
    """The numbers of the rows with these ids."""
    record = yield from record_of(dataset)
    column = (*record.targets, *record.inputs)[0]
    rows: list[int] = []
    for start in range(0, len(ids), _ASKED):
        query = [("id", each) for each in ids[start : start + _ASKED]]
        rows += (yield from named_rows(record, query, column)).rows
    return np.asarray(rows, np.int64)


def banks() -> Flow[list[Bank]]:
    """All banks of the namespace."""
    reply = yield Call("GET", _BANKS)
    return reply.read(Banks).items


def delete_bank(id: str) -> Flow[None]:
    """Deletes a bank's weights."""
    yield Call("DELETE", f"{_BANKS}/{segment(id)}")


@dataclass(frozen=True)
class BanksOfClient:
    """`client.banks`: weights that were retrained on subsets of rows, kept until they are deleted."""

    _link: Transport

    def list(self) -> builtins.list[Bank]:
        """Each bank with its model, dataset, recipe, and how many weights it has."""
        return self._link.run(banks())

    def delete(self, bank: str | Bank) -> None:
        """Deletes the weights of a bank."""
        self._link.run(delete_bank(bank if isinstance(bank, str) else bank.id))


@dataclass(frozen=True)
class AsyncBanksOfClient:
    """`client.banks` of an AsyncClient."""

    _link: AsyncTransport

    async def list(self) -> builtins.list[Bank]:
        """Each bank with its model, dataset, recipe, and how many weights it has."""
        return await self._link.run(banks())

    async def delete(self, bank: str | Bank) -> None:
        """Deletes the weights of a bank."""
        await self._link.run(delete_bank(bank if isinstance(bank, str) else bank.id))
