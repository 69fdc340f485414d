"""From exceptions to problem documents (RFC 9457), and their entries in the OpenAPI document."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.responses import Response

from upweight.errors import (
    Forbidden,
    HeadTooLarge,
    InternalError,
    InvalidRequest,
    MethodNotAllowed,
    NotFound,
    RateLimited,
    Unauthorized,
    Unavailable,
    UpweightError,
    error_classes,
)
from upweight.field_errors import field_errors
from upweight.schema import FieldError

# What every route that wants a key may answer.
EVERYWHERE = (
    Unauthorized,
    Forbidden,
    InvalidRequest,
    RateLimited,
    HeadTooLarge,
    InternalError,
    Unavailable,
)
MEDIA_TYPE = "application/problem+json"
ERRORS_SHOWN = 100


def respond(
    error: UpweightError, request_id: str, headers: Mapping[str, str] | None = None
) -> Response:
    """The answer that an error of ours becomes."""
    body = error.problem(request_id).model_dump(mode="json")
    answer = dict(headers or getattr(error, "headers", {}))
    if error.retry_after is not None:
        answer["Retry-After"] = str(math.ceil(error.retry_after))
    if error.status == 401:
        answer["WWW-Authenticate"] = "Bearer"
    # ASCII: what the user sent, and is shown again, need not be encodable otherwise.
    content = json.dumps(body, ensure_ascii=True, allow_nan=False)
    return Response(content, error.status, answer, MEDIA_TYPE)


def install(app: FastAPI, routers: Sequence[APIRouter]) -> None:
    """Makes every failure of a route a problem document."""
    routes = [route for router in routers for route in router.routes if isinstance(route, APIRoute)]

    async def http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return _http(request, error, routes)

    app.add_exception_handler(UpweightError, _ours)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, http)


async def _ours(request: Request, error: Exception) -> Response:
    assert isinstance(error, UpweightError)
    return respond(error, _request_id(request))


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return respond(
        invalid_request(field_errors(error.errors(), error.body, request.url.path)),
        _request_id(request),
    )


def invalid_request(errors: list[FieldError]) -> InvalidRequest:
    """All fields that are wrong, in one error whose words stand alone for one field."""
    if len(errors) == 1:
        where = f"{_named(errors[0])}: " if errors[0].pointer else ""
        return InvalidRequest(f"{where}{errors[0].detail}", errors=errors)
    names = ", ".join(_named(error) or "the body" for error in errors[:10])
    return InvalidRequest(
        f"{len(errors)} fields are wrong: {names}; 'errors' says what would be right",
        errors=errors[:ERRORS_SHOWN],
    )


def _named(error: FieldError) -> str:
    """As whoever typed it knows it: of a parameter its name alone."""
    return error.pointer.removeprefix("query:").removeprefix("path:")


def _http(request: Request, error: HTTPException, routes: Sequence[APIRoute]) -> Response:
    """What the framework itself refuses."""
    headers = dict(error.headers or {})
    if error.status_code == 405:
        # The framework names the methods of the first route alone that has the address.
        headers["Allow"] = _allowed(request.url.path, routes) or headers.get("Allow", "")
    answer = _translated(request, error, headers.get("Allow", ""))
    return respond(answer, _request_id(request), headers)


def _allowed(path: str, routes: Sequence[APIRoute]) -> str:
    there = [route for route in routes if route.path_regex.match(path)]
    return ", ".join(sorted({method for route in there for method in route.methods or ()}))


def _translated(request: Request, error: HTTPException, allowed: str) -> UpweightError:
    path = request.url.path[:200]
    match error.status_code:
        case 404:
            # Whoever has /v1 in the base address, too.
            twice = path.startswith("/v1/v1/")
            way = f"did you mean {path[3:]}?" if twice else "/openapi.json lists all addresses"
            return NotFound(f"there is nothing at {path}; {way}")
        case 405:
            return MethodNotAllowed(f"{path} does not take {request.method}; it takes {allowed}")
        case 400:
            # The framework's word for JSON that Python can't read: bytes that are no UTF-8, absurd numbers or depth.
            return InvalidRequest("the body can't be read as JSON in UTF-8")
        case status:
            same = [cls for cls in error_classes().values() if cls.status == status]
            return (same[0] if same else InternalError)(str(error.detail))


def _request_id(request: Request) -> str:
    return str(request.state.trace.request_id)


def documented(*classes: type[UpweightError]) -> dict[int | str, dict[str, Any]]:
    """OpenAPI's `responses` for errors that a route answers with."""
    by_status: dict[int, list[type[UpweightError]]] = {}
    for cls in classes:
        by_status.setdefault(cls.status, []).append(cls)
    return {status: _documented(same) for status, same in sorted(by_status.items())}


def _documented(classes: list[type[UpweightError]]) -> dict[str, Any]:
    examples = {
        cls.type: {
            "value": cls("What happened, and what to do.").problem("req_…").model_dump(mode="json")
        }
        for cls in classes
    }
    return {
        "description": "; or: ".join(f"`{cls.type}`: {cls.title}" for cls in classes),
        "content": {
            MEDIA_TYPE: {
                "schema": {"$ref": "#/components/schemas/Problem"},
                "examples": examples,
            }
        },
    }
