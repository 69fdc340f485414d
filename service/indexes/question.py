"""A question to an index: what is asked of a worker, held against the index, and what becomes of its answer."""

from __future__ import annotations

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
from upweight.errors import Conflict, InvalidRequest
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

    @classmethod
    def of(cls, parts: Parts, namespace: str, id: str, request: IndexQuery) -> Question:
        """Raises what can't be asked."""
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
        return cls(parts, namespace, result, document, named)

    def answered(self, trace: Trace, following: Following | None = None) -> IndexAnswer:
        """Held until a worker has. Raises what it has found wrong, QueueFull, Unavailable."""
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


def _model(parts: Parts, namespace: str, result: StoredResult, request: IndexQuery) -> ModelRecord:
    """The index's model. Raises Conflict where another one is meant, or a newer version is there."""
    found = ModelRecord.model_validate(parts.records.get("model", namespace, result.job.model_id))
    meant = resolve(parts, "model", namespace, request.model or found.name, usable=True)
    if meant["id"] == found.id:
        return found
    own, other = f"{found.name}@{found.version}", f"{meant['name']}@{meant['version']}"
    way = f"ask an index of {other}; start one with the same request and model {other!r}"
    if request.model is None:
        way += f"; or say 'model': {own!r}, if that version is meant"
    raise Conflict.field(
        "/model", f"index {result.job.id} is of {own}, and {other} is meant: {way}", request.model
    )
