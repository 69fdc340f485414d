"""What routes ask for: the parts, the caller, the trace of the request, pages, waiting, idempotency."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections import Counter
from dataclasses import dataclass
from typing import Annotated, Literal, get_origin

from fastapi import Depends, Header, Query, Request
from fastapi.dependencies.utils import get_flat_params
from fastapi.params import Query as QueryParameter
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel

from service.auth import Caller, Role, authenticate, media_type
from service.parts import Parts
from service.problems import ERRORS_SHOWN, invalid_request
from service.requests import Trace
from service.storage.records import Idempotency
from upweight.errors import UnsupportedMediaType, shown
from upweight.schema import FieldError

_bearer = HTTPBearer(
    auto_error=False, description="A key of the service; not needed where no key is set."
)


async def _parts(request: Request) -> Parts:
    parts: Parts = request.app.state.parts
    return parts


async def _trace(request: Request) -> Trace:
    trace: Trace = request.state.trace
    return trace


PartsNow = Annotated[Parts, Depends(_parts)]
TraceNow = Annotated[Trace, Depends(_trace)]


def reader(
    request: Request,
    parts: PartsNow,
    credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
) -> Caller:
    bearer = credentials.credentials if credentials else None
    caller = authenticate(parts.keys, bearer, parts.settings.host, request.method, request.headers)
    request.state.trace.caller = caller
    request.state.trace.headers = parts.rate.spend(caller.namespace)
    caller.require(Role.READ)
    return caller


# On the event loop: a thread for each of these would cost more than they do.
async def _writer(caller: Annotated[Caller, Depends(reader)]) -> Caller:
    caller.require(Role.WRITE)
    return caller


async def _administrator(caller: Annotated[Caller, Depends(reader)]) -> Caller:
    caller.require(Role.ADMIN)
    return caller


Reader = Annotated[Caller, Depends(reader)]
Writer = Annotated[Caller, Depends(_writer)]
Administrator = Annotated[Caller, Depends(_administrator)]


async def json_only(request: Request) -> None:
    """Refuses a body that is not said to be JSON. Raises UnsupportedMediaType."""
    kind = media_type(request.headers)
    if kind != "application/json" and not (
        kind.startswith("application/") and kind.endswith("+json")
    ):
        raise UnsupportedMediaType(
            f"the body is of type {kind or 'unknown'!r}; send 'Content-Type: application/json'"
        )


async def known_query(request: Request) -> None:
    """Refuses query parameters that the route does not have, and a single one given twice.

    Without it a misspelt filter is no filter: `?stat=failed` lists everything. Raises InvalidRequest.
    """
    if not request.url.query:
        return
    known = {
        field.alias: get_origin(field.field_info.annotation) is list
        for field in get_flat_params(request.scope["route"].dependant)
        if isinstance(field.field_info, QueryParameter)
    }
    errors: list[FieldError] = []
    for name, times in Counter(name for name, _ in request.query_params.multi_items()).items():
        if name not in known:
            words = _unknown_parameter(name, list(known))
        elif times > 1 and not known[name]:
            words = f"is given {times} times, and takes one value"
        else:
            continue
        value = shown(request.query_params[name])
        errors.append(FieldError(pointer=f"query:{shown(name)}", detail=words, value=value))
        if len(errors) == ERRORS_SHOWN:
            break
    if errors:
        raise invalid_request(errors)


def _unknown_parameter(name: str, known: list[str]) -> str:
    words = f"there is no query parameter {shown(name)!r} here; "
    if not known:
        return f"{words}this route takes none"
    near = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.6)
    meant = f"did you mean {near[0]!r}? Known" if near else "known"
    return f"{words}{meant} are {', '.join(map(repr, known))}"


@dataclass(frozen=True)
class Paging:
    """Which page of a list."""

    limit: int
    after: str | None
    newest_first: bool
    filters: tuple[str, ...] = ()


async def _paging(
    limit: Annotated[int, Query(ge=1, le=1000, description="Items at most.")] = 100,
    after: Annotated[
        str | None, Query(max_length=200, description="`next_after` of the page before.")
    ] = None,
    order: Annotated[
        Literal["desc", "asc"], Query(description="By time of creation; `desc`: newest first.")
    ] = "desc",
) -> Paging:
    return Paging(limit, after, order == "desc")


PagingQuery = Annotated[Paging, Depends(_paging)]
Wait = Annotated[
    float,
    Query(
        ge=0,
        le=60,
        description="Holds the answer for so many seconds at most, until the state is final.",
    ),
]
LabelQuery = Annotated[
    list[str],
    Query(
        max_length=16,
        description="`key=value`; repeated, all must match.",
        examples=["team=vision"],
    ),
]
IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        description="The same key with the same request answers the same resource, made once. Kept for 7 days.",
    ),
]


def idempotency(key: str | None, route: str, body: BaseModel | None = None) -> Idempotency | None:
    """What a repeated request is known by, if the client gave a key."""
    if key is None:
        return None
    # As the body was understood, so that spelling and order of fields do not matter.
    document = body.model_dump(mode="json") if body is not None else None
    text = json.dumps([route, document], sort_keys=True, separators=(",", ":"))
    return Idempotency(key, hashlib.sha256(text.encode()).hexdigest())
