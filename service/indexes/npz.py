"""A question whose rows are a body of numpy's npz: an array a column, as `numpy.savez` writes it."""

from __future__ import annotations

import io
from math import prod
from typing import Any

from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.requests import Request

from service.auth import media_type
from service.dependencies import json_only
from service.storage.npz import BadArchive, NpzFile
from upweight.errors import InvalidRequest, UnsupportedMediaType
from upweight.field_errors import pointer_step
from upweight.schema import IndexQuery

MEDIA_TYPE = "application/x-npz"
MOST_BYTES = 16 * 1024**2  # unpacked, of all columns


async def json_or_npz(request: Request) -> None:
    """Refuses any other body. Raises UnsupportedMediaType."""
    kind = media_type(request.headers)
    if kind == MEDIA_TYPE:
        return
    if kind == "application/x-npy":
        raise UnsupportedMediaType(
            "an npy has one array, and a row has several columns: send an npz of all of them (numpy.savez) as "
            f"'Content-Type: {MEDIA_TYPE}'"
        )
    try:
        await json_only(request)
    except UnsupportedMediaType as error:
        raise UnsupportedMediaType(f"{error.detail}, or an npz as {MEDIA_TYPE!r}") from None


def unpacked(body: Any) -> Any:
    """The question whose columns are the arrays of an npz; a body that is no bytes stays as it is.

    Raises InvalidRequest, RequestValidationError.
    """
    if not isinstance(body, bytes):
        return body
    try:
        archive = NpzFile(io.BytesIO(body))
        _refuse(archive)
        fields = {"columns": {name: list(archive.read(name)) for name in archive.entries}}
        return IndexQuery.model_validate(fields)
    except BadArchive as error:
        raise InvalidRequest.field("", f"the body is no npz: {error}", None) from None
    except ValidationError as error:
        found = [{**each, "loc": ("body", *each["loc"])} for each in error.errors()]
        raise RequestValidationError(found, body=fields) from None


def _refuse(archive: NpzFile) -> None:
    """Raises InvalidRequest for too much, and for what is no column."""
    size = sum(prod(each.shape) * each.dtype.itemsize for each in archive.entries.values())
    if size > MOST_BYTES:
        words = f"the arrays have {size} bytes, and at most {MOST_BYTES} are taken at a time: ask for fewer rows"
        raise InvalidRequest.field("", words, None)
    for name, entry in archive.entries.items():
        pointer = f"/columns/{pointer_step(name)}"
        if entry.dtype.kind not in "biuf":
            words = f"array {name!r} is of {entry.dtype}: send numbers or booleans"
            raise InvalidRequest.field(pointer, words, None)
        if not entry.shape:
            words = f"array {name!r} is one number: its first axis must be the rows"
            raise InvalidRequest.field(pointer, words, None)
