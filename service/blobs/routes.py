"""HTTP for blobs: bytes under the digest of what they are."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal

from fastapi import APIRouter, Header, Path, Query, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.concurrency import run_in_threadpool

from service.auth import Role
from service.blobs.records import find_blob, require_blob
from service.blobs.upload import accept_upload, receive_blob, too_large
from service.dependencies import PartsNow, Reader, Writer
from service.docs.examples import HELLO
from service.limits.quota import SIGNED_SECONDS
from service.parts import Parts
from service.problems import EVERYWHERE, documented
from service.storage.layout import blob_path, upload_path
from upweight.errors import (
    Conflict,
    DigestMismatch,
    Forbidden,
    InvalidRequest,
    NotFound,
    QuotaExceeded,
    RangeNotSatisfiable,
    TooLarge,
)
from upweight.schema import BlobRecord, PresignedUrl
from upweight.schema.base import DIGEST_PATTERN

_BYTES = {
    "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
}

# Bytes of any type are taken; these can be typed into the API's page.
_HELLO = {"text/plain": {"schema": {"type": "string"}, "example": HELLO}}

router = APIRouter(
    prefix="/v1/blobs",
    tags=["Blobs"],
    responses=documented(*EVERYWHERE),
)
DigestPath = Annotated[
    str,
    Path(
        pattern=DIGEST_PATTERN,
        description="`sha256:` and the SHA-256 of the bytes in lower-case hexadecimal.",
        examples=["sha256:" + "0" * 64],
    ),
]
_RANGE = re.compile(r"^bytes=(\d{0,19})-(\d{0,19})$")


@router.put(
    "/{digest}",
    summary="Upload a blob",
    responses={
        201: {"model": BlobRecord, "description": "Stored now."},
        **documented(DigestMismatch, InvalidRequest, TooLarge, Forbidden, QuotaExceeded),
    },
    openapi_extra={"requestBody": {"required": True, "content": {**_HELLO, **_BYTES["content"]}}},
)
async def put_blob(
    digest: DigestPath, request: Request, parts: PartsNow, caller: Writer
) -> BlobRecord:
    """Stores the body under its digest, verified as it streams past; bytes that are there already are not read."""
    found = await run_in_threadpool(find_blob, parts.objects, caller.namespace, digest)
    if found is not None:
        return found
    header = request.headers.get("content-length", "0")
    length = int(header) if header.isdecimal() else 0
    if length > parts.settings.blob_bytes:
        raise too_large(parts.settings.blob_bytes)
    with parts.upload_limit.one(caller.namespace):
        stored = await receive_blob(parts, caller.namespace, digest, length, request.stream())
    return JSONResponse(stored.model_dump(), 201)  # type: ignore[return-value]


@router.head(
    "/{digest}",
    summary="Ask whether a blob is there",
    responses=documented(NotFound),
    response_class=Response,
)
def head_blob(digest: DigestPath, parts: PartsNow, caller: Reader) -> Response:
    """Whether a blob is there, and its size."""
    found = require_blob(parts.objects, caller.namespace, digest)
    return Response(headers=_headers(found) | {"Content-Length": str(found.size_bytes)})


@router.get(
    "/{digest}",
    summary="Download a blob",
    response_class=StreamingResponse,
    responses={
        200: _BYTES,
        206: {"description": "The range asked for.", **_BYTES},
        304: {"description": "The client has it."},
        **documented(NotFound, RangeNotSatisfiable),
    },
)
def get_blob(
    digest: DigestPath,
    parts: PartsNow,
    caller: Reader,
    range: Annotated[str | None, Header(description="One byte range: `bytes=0-99`.")] = None,
    if_none_match: Annotated[str | None, Header()] = None,
    if_range: Annotated[str | None, Header()] = None,
) -> Response:
    """A blob's bytes, or a range of them."""
    found = require_blob(parts.objects, caller.namespace, digest)
    headers = _headers(found)
    if if_none_match is not None and _names(if_none_match, headers["ETag"]):
        return Response(status_code=304, headers=headers)
    wanted = range if if_range in (None, headers["ETag"]) else None
    part = byte_range(wanted, found.size_bytes)
    start, stop = part or (0, found.size_bytes)
    headers["Content-Length"] = str(stop - start)
    if part is not None:
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{found.size_bytes}"
    chunks = parts.objects.open_stream(blob_path(caller.namespace, digest), start, stop)
    return StreamingResponse(
        chunks, 206 if part else 200, headers, media_type="application/octet-stream"
    )


@router.post(
    "/{digest}/url",
    summary="Make a URL for direct transfer",
    responses=documented(NotFound, Conflict, InvalidRequest, TooLarge, Forbidden, QuotaExceeded),
)
def presign(
    digest: DigestPath,
    parts: PartsNow,
    caller: Reader,
    method: Annotated[Literal["GET", "PUT"], Query(description="What the URL is for.")] = "GET",
    size_bytes: Annotated[
        int | None,
        Query(
            description="How many bytes will come by a `PUT`; needed where the bytes of a namespace have a limit.",
            ge=0,
        ),
    ] = None,
) -> PresignedUrl:
    """A URL by which a blob comes or goes without passing through the service, where the object storage can sign.

    Bytes that come by it are a blob only once `…/complete` has verified them. Their room is reserved now.
    """
    if method == "PUT":
        caller.require(Role.WRITE)
        path, then = upload_path(caller.namespace, digest), f"/v1/blobs/{digest}/complete"
    else:
        require_blob(parts.objects, caller.namespace, digest)
        path, then = blob_path(caller.namespace, digest), None
    url = parts.objects.sign_or_none(method, path, SIGNED_SECONDS)
    if url is None:
        raise Conflict(
            "this object storage cannot sign; PUT the bytes to the service"
            if method == "PUT"
            else "this object storage cannot sign; GET the bytes from the service"
        )
    if method == "PUT":
        _reserve(parts, caller.namespace, digest, size_bytes)
    expires = datetime.now(UTC) + timedelta(seconds=SIGNED_SECONDS)
    return PresignedUrl(url=url, method=method, expires_at=expires, then=then)


def _reserve(parts: Parts, namespace: str, digest: str, size: int | None) -> None:
    """Room for what is to come; none where the blob is there already."""
    settings = parts.settings
    if size is not None and size > settings.blob_bytes:
        raise too_large(settings.blob_bytes)
    if settings.namespace_bytes is None or find_blob(parts.objects, namespace, digest) is not None:
        return
    if size is None:
        raise InvalidRequest.field(
            "query:size_bytes",
            "say how many bytes will come: a namespace may store "
            f"{settings.namespace_bytes} bytes here, and they are reserved when the URL is made",
        )
    parts.quota.reservation_by_url(namespace, digest).cover(max(size, 1))


@router.post(
    "/{digest}/complete",
    summary="Verify a direct upload",
    responses={
        201: {"model": BlobRecord, "description": "Verified and stored now."},
        **documented(NotFound, DigestMismatch, TooLarge, Forbidden, QuotaExceeded),
    },
)
async def complete(digest: DigestPath, parts: PartsNow, caller: Writer) -> BlobRecord:
    """Verifies what came by a presigned URL, and makes it a blob; bytes with another digest are deleted."""
    stored, new = await accept_upload(parts, caller.namespace, digest)
    return JSONResponse(stored.model_dump(), 201) if new else stored  # type: ignore[return-value]


def _headers(blob: BlobRecord) -> dict[str, str]:
    return {
        "ETag": f'"{blob.digest}"',
        "Accept-Ranges": "bytes",
        "Cache-Control": "private, immutable, max-age=31536000",
    }


def _names(if_none_match: str, etag: str) -> bool:
    given = [tag.strip().removeprefix("W/") for tag in if_none_match.split(",")]
    return "*" in given or etag in given


class OutsideBlob(RangeNotSatisfiable):
    """No byte of the blob is in the range; the answer tells the blob's size, as HTTP wants it."""

    def __init__(self, asked: str, size: int) -> None:
        super().__init__(
            f"the blob has {size} bytes, and {asked!r} names none of them; the last byte is {size - 1}"
        )
        self.headers = {"Content-Range": f"bytes */{size}"}


def byte_range(header: str | None, size: int) -> tuple[int, int] | None:
    """[start, stop) of the range asked for; None for the whole (no header, or several ranges, which may be ignored).

    Raises OutsideBlob.
    """
    match = _RANGE.fullmatch((header or "").replace(" ", ""))
    if match is None or match.groups() == ("", ""):
        return None
    first, last = match.groups()
    if not first:
        start, stop = max(0, size - int(last)), size
    else:
        start, stop = int(first), min(size, int(last) + 1) if last else size
    if start >= size or stop <= start:
        raise OutsideBlob(header or "", size)
    return start, stop
