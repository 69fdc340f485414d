"""What routes ask for: the parts, the caller, the trace of the request, pages, waiting, idempotency."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Annotated, Literal

from fastapi import Depends, Header, Query, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel

from service.auth import Caller, Role, authenticate, media_type
from service.parts import Parts
from service.requests import Trace
from service.storage.records import Idempotency
from upweight.errors import UnsupportedMediaType

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


def _reader(
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
async def _writer(caller: Annotated[Caller, Depends(_reader)]) -> Caller:
    caller.require(Role.WRITE)
    return caller


async def _administrator(caller: Annotated[Caller, Depends(_reader)]) -> Caller:
    caller.require(Role.ADMIN)
    return caller


Reader = Annotated[Caller, Depends(_reader)]
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
