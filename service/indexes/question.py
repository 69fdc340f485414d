"""A question to an index: what is asked of a worker, held against the index, and what becomes of its answer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import repeat
from typing import Any

import numpy as np

from service.indexes.rows import chosen_rows, given
from service.parts import Parts
from service.registry import resolve
from service.requests import Trace
from service.results.stored import StoredResult, find_result
from service.storage.keys import Document
from service.storage.questions import Following
from upweight.errors import Conflict, InvalidRequest, NotFound, UpweightError
from upweight.schema import (
    DatasetRecord,
    Explained,
    IndexAnswer,
    IndexedRow,
    IndexQuery,
    ModelRecord,
)


@dataclass(frozen=True)
class Question:
    """What a worker is asked of an index that is there."""

    parts: Parts
    namespace: str
    result: StoredResult
    document: Document
    arrays: dict[str, np.ndarray[Any, Any]]
    in_address: bool = False  # its fields are parameters of the address

    @classmethod
    def of(
        cls, parts: Parts, namespace: str, id: str, request: IndexQuery, *, in_address: bool = False
    ) -> Question:
        """Raises what can't be asked."""
        with _located(in_address):
            return cls._of(parts, namespace, id, request, in_address)

    @classmethod
    def _of(
        cls, parts: Parts, namespace: str, id: str, request: IndexQuery, in_address: bool
    ) -> Question:
        result = find_result(parts, namespace, id)
        if not result.has("index"):
            raise InvalidRequest(
                f"job {id} is of kind {result.job.request.kind!r}, and is no index; start one of kind 'index'"
            )
        model = _model(parts, namespace, result, request)
        found = parts.records.get("dataset", namespace, result.job.train_id)
        dataset = DatasetRecord.model_validate(found)
        if request.test is not None:
            arrays = chosen_rows(parts, namespace, result.job, model, request.test)
        else:
            arrays = given(result.job, dataset, request.columns, request.text)
        document = {
            "index": id,
            "k": request.k,
            "candidates": request.candidates,
            "text": request.text,
            "columns": list(arrays),
        }
        named = {str(at): each for at, each in enumerate(arrays.values())}
        return cls(parts, namespace, result, document, named, in_address)

    def answered(self, trace: Trace, following: Following | None = None) -> IndexAnswer:
        """Held until a worker has. Raises what it has found wrong, QueueFull, Unavailable."""
        with _located(self.in_address):
            found = self.parts.questions.asked(
                self.namespace,
                self.document,
                self.arrays,
                self.parts.settings.query_seconds,
                str(trace),
                following,
            )
        every = sorted({row for one in found["rows"] for sign in one.values() for row, _ in sign})
        ids = dict(zip(every, self.result.ids("train", every), strict=True))
        return IndexAnswer(
            index=self.result.job.id,
            rows=[
                Explained(
                    tokens=tokens,
                    **{
                        sign: [
                            IndexedRow(row=row, id=ids[row], influence=value)
                            for row, value in ranked
                        ]
                        for sign, ranked in one.items()
                    },
                )
                for one, tokens in zip(found["rows"], found["tokens"] or repeat(None), strict=False)
            ],
            exact=self.document["candidates"] > 0,
            candidates=found["candidates"],
            seconds=found["seconds"],
            remarks=found["remarks"],
        )


@contextmanager
def _located(in_address: bool) -> Iterator[None]:
    """Points what is wrong at the parameters of the address, where the question has come by these."""
    try:
        yield
    except UpweightError as error:
        if in_address:
            error.errors = [
                each.model_copy(update={"pointer": _parameter(each.pointer)})
                for each in error.errors
            ]
        raise


def _parameter(pointer: str) -> str:
    """A selection's dataset is `test`, and its rows stand beside it."""
    if pointer == "/test/rows":
        return "query:rows"
    first = pointer.removeprefix("/").split("/")[0]
    return f"query:{first}" if first in ("test", "model") else pointer


def _model(parts: Parts, namespace: str, result: StoredResult, request: IndexQuery) -> ModelRecord:
    """The index's model. Raises Conflict where another one is meant, or a newer version is there."""
    found = ModelRecord.model_validate(parts.records.get("model", namespace, result.job.model_id))
    try:
        meant = resolve(parts, "model", namespace, request.model or found.name, usable=True)
    except NotFound as missing:
        raise NotFound.field("/model", missing.detail, request.model) from None
    if meant["id"] == found.id:
        return found
    own, other = f"{found.name}@{found.version}", f"{meant['name']}@{meant['version']}"
    way = f"ask an index of {other}; start one with the same request and model {other!r}"
    if request.model is None:
        way += f"; or say 'model': {own!r}, if that version is meant"
    raise Conflict.field(
        "/model", f"index {result.job.id} is of {own}, and {other} is meant: {way}", request.model
    )
