"""HTTP for indexes: the training rows that help and harm rows in the request, while whoever asks waits."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, Header, Query
from fastapi.exceptions import RequestValidationError
from pydantic import BeforeValidator, ValidationError

from service.answers.events import EventStream
from service.dependencies import PartsNow, Reader, TraceNow
from service.indexes.npz import MEDIA_TYPE, json_or_npz, unpacked
from service.indexes.question import Question
from service.indexes.stream import EVENTS, followed, wants_events
from service.limits.lanes import leave_lane
from service.parts import Parts
from service.problems import EVERYWHERE, documented
from service.requests import Trace
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
from upweight.schema import IndexAnswer, IndexQuery

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
_REFUSED = documented(
    InvalidRequest, NotFound, Conflict, ResultExpired, ResultNotReady, QueueFull, RateLimited
)
router = APIRouter(prefix="/v1/indexes", tags=["Indexes"], responses=documented(*EVERYWHERE))


@router.post(
    "/{id}/query",
    summary="Ask which training rows help and harm some rows",
    dependencies=[Depends(json_or_npz)],
    openapi_extra={
        "requestBody": {"content": {MEDIA_TYPE: {"schema": {"type": "string", "format": "binary"}}}}
    },
    response_model=IndexAnswer,
    responses={200: EVENTS, **_REFUSED, **documented(TooLarge, UnsupportedMediaType)},
)
async def query(
    id: str,
    request: Annotated[IndexQuery, BeforeValidator(unpacked), Body(openapi_examples=_EXAMPLES)],
    parts: PartsNow,
    caller: Reader,
    trace: TraceNow,
    k: Annotated[int | None, Query(description=_BESIDE)] = None,
    candidates: Annotated[int | None, Query(description=_BESIDE)] = None,
    model: Annotated[str | None, Query(max_length=200, description=_BESIDE)] = None,
    accept: Annotated[str | None, Header(include_in_schema=False)] = None,
) -> Any:
    """The training rows that help and that harm each row of the request most, by an index: a job of kind `index`.

    A worker takes the gradients of the rows, finds candidates by the index's numbers, and scores these by their whole
    gradients. The answer is held until it has; with `Accept: text/event-stream` there are events until then. The body
    is JSON, or an npz with an array for each column.
    """
    request = _beside(request, {"k": k, "candidates": candidates, "model": model})
    return await _answer(parts, caller.namespace, id, request, trace, accept)


@router.get(
    "/{id}/query",
    summary="Ask about rows of a dataset",
    response_model=IndexAnswer,
    responses={200: EVENTS, **_REFUSED},
)
async def query_dataset(
    id: str,
    parts: PartsNow,
    caller: Reader,
    trace: TraceNow,
    test: Annotated[str, Query(max_length=200, description="A dataset.", examples=["digits-test"])],
    rows: Annotated[str | None, Query(max_length=4000, description="Which of its rows.")] = None,
    k: Annotated[int | None, Query(description="As the field of a body.")] = None,
    candidates: Annotated[int | None, Query(description="As the field of a body.")] = None,
    model: Annotated[
        str | None, Query(max_length=200, description="As the field of a body.")
    ] = None,
    accept: Annotated[str | None, Header(include_in_schema=False)] = None,
) -> Any:
    """As by POST: for a browser's `EventSource`, which can't send a body, and for what follows events."""
    selection = {"dataset": test, **({} if rows is None else {"rows": rows})}
    given = {"k": k, "candidates": candidates, "model": model, "test": selection}
    request = _checked({name: value for name, value in given.items() if value is not None})
    return await _answer(parts, caller.namespace, id, request, trace, accept, in_address=True)


async def _answer(
    parts: Parts,
    namespace: str,
    id: str,
    request: IndexQuery,
    trace: Trace,
    accept: str | None,
    *,
    in_address: bool = False,
) -> IndexAnswer | EventStream:
    """Held until it is there, or events until then."""
    leave_lane()
    loop = asyncio.get_running_loop()
    with parts.question_limit.one(namespace):
        made = partial(Question.of, parts, namespace, id, request, in_address=in_address)
        question = await loop.run_in_executor(parts.asking, made)
        if not wants_events(accept):
            return await loop.run_in_executor(parts.asking, question.answered, trace)
    return followed(question, trace)


def _beside(request: IndexQuery, given: dict[str, Any]) -> IndexQuery:
    """The question with the fields of the address. Raises InvalidRequest, RequestValidationError."""
    fields = {name: value for name, value in given.items() if value is not None}
    for name in fields.keys() & request.model_fields_set:
        raise InvalidRequest.field(
            f"query:{name}", f"'{name}' is in the body, too; give it once", given[name]
        )
    if not fields:
        return request
    return _checked(
        {**{name: getattr(request, name) for name in request.model_fields_set}, **fields}
    )


def _checked(fields: dict[str, Any]) -> IndexQuery:
    """Raises RequestValidationError."""
    try:
        return IndexQuery.model_validate(fields)
    except ValidationError as error:
        found = [{**each, "loc": ("query", *_parameter(each["loc"]))} for each in error.errors()]
        raise RequestValidationError(found) from None


def _parameter(location: tuple[int | str, ...]) -> tuple[int | str, ...]:
    """Of the address, which has a selection's dataset as `test`, and its rows beside it; none of the whole."""
    return location[1:2] if location[:2] == ("test", "rows") else location[:1]
