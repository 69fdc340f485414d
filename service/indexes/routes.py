"""HTTP for indexes: the training rows that help and harm rows in the request, while whoever asks waits."""

from __future__ import annotations

import asyncio
from itertools import repeat
from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, Query
from fastapi.exceptions import RequestValidationError
from pydantic import BeforeValidator, ValidationError

from service.dependencies import PartsNow, Reader, TraceNow
from service.indexes.npz import MEDIA_TYPE, json_or_npz, unpacked
from service.indexes.rows import chosen_rows, given
from service.limits.lanes import leave_lane
from service.parts import Parts
from service.problems import EVERYWHERE, documented
from service.registry import resolve
from service.requests import Trace
from service.results.stored import StoredResult, find_result
from upweight.errors import (
    Conflict,
    InvalidRequest,
    NotFound,
    QueueFull,
    RateLimited,
    ResultExpired,
    ResultNotReady,
    TooLarge,
    UnsupportedMediaType,
)
from upweight.schema import (
    DatasetRecord,
    Explained,
    IndexAnswer,
    IndexedRow,
    IndexQuery,
    ModelRecord,
)

_EXAMPLES: Any = {
    "of a dataset": {
        "summary": "A row of a dataset that is there",
        "value": {"test": {"dataset": "digits-test", "rows": "3"}, "k": 5},
    },
    "a text": {
        "summary": "A text, and what it is labelled with",
        "value": {"text": ["what a lovely film"], "columns": {"y": [1]}, "k": 5},
    },
}
_BESIDE = "As the body's field, where the body is an npz."
router = APIRouter(prefix="/v1/indexes", tags=["Indexes"], responses=documented(*EVERYWHERE))


@router.post(
    "/{id}/query",
    summary="Ask which training rows help and harm some rows",
    dependencies=[Depends(json_or_npz)],
    openapi_extra={
        "requestBody": {"content": {MEDIA_TYPE: {"schema": {"type": "string", "format": "binary"}}}}
    },
    responses=documented(
        InvalidRequest, NotFound, Conflict, ResultExpired, ResultNotReady, TooLarge, UnsupportedMediaType,
        QueueFull, RateLimited,
    ),
)  # fmt: skip
async def query(
    id: str,
    request: Annotated[IndexQuery, BeforeValidator(unpacked), Body(openapi_examples=_EXAMPLES)],
    parts: PartsNow,
    caller: Reader,
    trace: TraceNow,
    k: Annotated[int | None, Query(description=_BESIDE)] = None,
    candidates: Annotated[int | None, Query(description=_BESIDE)] = None,
    model: Annotated[str | None, Query(max_length=200, description=_BESIDE)] = None,
) -> IndexAnswer:
    """The training rows that help and that harm each row of the request most, by an index: a job of kind `index`.

    A worker takes the gradients of the rows, finds candidates by the index's numbers, and scores these by their whole
    gradients. The answer is held until it has. The body is JSON, or an npz with an array for each column.
    """
    request = _beside(request, {"k": k, "candidates": candidates, "model": model})
    leave_lane()
    with parts.question_limit.one(caller.namespace):
        return await asyncio.get_running_loop().run_in_executor(
            parts.asking, _answered, parts, caller.namespace, id, request, trace
        )


def _beside(request: IndexQuery, given: dict[str, Any]) -> IndexQuery:
    """The question with the fields of the address. Raises InvalidRequest, RequestValidationError."""
    fields = {name: value for name, value in given.items() if value is not None}
    for name in fields.keys() & request.model_fields_set:
        raise InvalidRequest.field(
            f"query:{name}", f"'{name}' is in the body, too; give it once", given[name]
        )
    if not fields:
        return request
    own = {name: getattr(request, name) for name in request.model_fields_set}
    try:
        return IndexQuery.model_validate({**own, **fields})
    except ValidationError as error:
        raise RequestValidationError(
            [{**each, "loc": ("query", *each["loc"])} for each in error.errors()]
        ) from None


def _answered(
    parts: Parts, namespace: str, id: str, request: IndexQuery, trace: Trace
) -> IndexAnswer:
    result = find_result(parts, namespace, id)
    if not result.has("index"):
        raise InvalidRequest(
            f"job {id} is of kind {result.job.request.kind!r}, and is no index; start one of kind 'index'"
        )
    model = _model(parts, namespace, result, request)
    document = parts.records.get("dataset", namespace, result.job.train_id)
    dataset = DatasetRecord.model_validate(document)
    if request.test is not None:
        arrays = chosen_rows(parts, namespace, result.job, model, request.test)
    else:
        arrays = given(result.job, dataset, request.columns, request.text)
    question = {
        "index": id,
        "k": request.k,
        "candidates": request.candidates,
        "text": request.text,
        "columns": list(arrays),
    }
    named = {str(at): each for at, each in enumerate(arrays.values())}
    found = parts.questions.asked(
        namespace, question, named, parts.settings.query_seconds, str(trace)
    )
    every = sorted({row for one in found["rows"] for sign in one.values() for row, _ in sign})
    ids = dict(zip(every, result.ids("train", every), strict=True))
    return IndexAnswer(
        index=id,
        rows=[
            Explained(
                tokens=tokens,
                **{
                    sign: [
                        IndexedRow(row=row, id=ids[row], influence=value) for row, value in ranked
                    ]
                    for sign, ranked in one.items()
                },
            )
            for one, tokens in zip(found["rows"], found["tokens"] or repeat(None), strict=False)
        ],
        exact=request.candidates > 0,
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
