"""Blobs: bytes under their SHA-256."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from upweight.client.content import Content, Source, arrays_content, content_of
from upweight.errors import InvalidRequest, NotFound, UpweightError
from upweight.files.download import FileSink
from upweight.http.flow import Call, Flow, Work, segment
from upweight.http.transport import AsyncTransport, Transport
from upweight.progress import Bars
from upweight.schema import BlobRecord, PresignedUrl

Method = Literal["GET", "PUT"]


def put(content: Content, bars: Bars) -> Flow[BlobRecord]:
    """Uploads, unless the service has these bytes already."""
    with bars.bar(f"reading {content.label}", content.size) as bar:
        digest: str = yield Work(lambda: content.digest(bar.over))
    existing = yield from head(digest)
    if existing is not None:
        return existing
    with bars.bar(f"uploading {content.label}", content.size) as bar:
        reply = yield Call(
            "PUT",
            _path(digest),
            content=lambda: bar.over(content.chunks()),
            headers={
                "Content-Type": "application/octet-stream",
                "Content-Length": str(content.size),
            },
        )
    return reply.read(BlobRecord)


def put_source(source: Source, bars: Bars) -> Flow[BlobRecord]:
    """Uploads from wherever the bytes are."""
    content: Content = yield Work(lambda: content_of(source))
    try:
        return (yield from put(content, bars))
    finally:
        content.close()


def put_array(name: str, array: Any, bars: Bars) -> Flow[str]:
    """Uploads an array as a safetensors blob with one tensor of a name; a digest is taken as it is."""
    if isinstance(array, str):
        return array
    content: Content = yield Work(lambda: arrays_content({name: _rows(name, array)}, name))
    record = yield from put(content, bars)
    return record.digest


def _rows(name: str, array: Any) -> Any:
    """Vectors as (rows, parameters); one vector is one row."""
    dimensions = getattr(array, "ndim", None)
    if dimensions == 1:
        return array.reshape(1, -1)
    if dimensions == 2:
        return array
    if dimensions is None and len(array) and hasattr(array[0], "__len__"):
        return array
    if dimensions is None:
        return [array]
    raise InvalidRequest(f"{name!r} has {dimensions} dimensions; give (rows, parameters)")


def head(digest: str) -> Flow[BlobRecord | None]:
    """The blob's record, or None where there is none."""
    try:
        reply = yield Call("HEAD", _path(digest))
    except NotFound:
        return None
    except UpweightError as error:
        if error.status != 422:
            raise
        # An answer to HEAD has no words.
        words = (
            f"{digest!r} is no digest: these are 'sha256:' and 64 hexadecimal digits in lower case"
        )
        raise InvalidRequest(words) from error
    return BlobRecord(digest=digest, size_bytes=int(reply.headers.get("content-length", 0)))


def read(digest: str) -> Flow[bytes]:
    """The bytes, in memory."""
    reply = yield Call("GET", _path(digest), sink=None, headers={"Accept": "*/*"})
    body: bytes = reply.body
    return body


def download(digest: str, path: str | os.PathLike[str], bars: Bars) -> Flow[Path]:
    """The bytes into a file."""
    with bars.bar(f"downloading {Path(path).name}") as bar:
        sink = FileSink(path, digest=digest, resumes=True, bar=bar)
        try:
            yield Call("GET", _path(digest), sink=sink)
        except BaseException:
            sink.discard()
            raise
    return sink.path


def signed(digest: str, method: Method, size_bytes: int | None) -> Flow[PresignedUrl]:
    """A URL to the object storage itself."""
    size = () if size_bytes is None else (("size_bytes", str(size_bytes)),)
    reply = yield Call("POST", f"{_path(digest)}/url", (("method", method), *size))
    return reply.read(PresignedUrl)


def complete(digest: str) -> Flow[BlobRecord]:
    """Verifies what came by such a URL."""
    reply = yield Call("POST", f"{_path(digest)}/complete")
    return reply.read(BlobRecord)


def _path(digest: str) -> str:
    return f"/v1/blobs/{segment(digest)}"


@dataclass(frozen=True)
class Blobs:
    """`client.blobs`."""

    _link: Transport
    _bars: Bars

    def put(self, source: Source) -> BlobRecord:
        """Uploads a path, bytes or an open binary file. Bytes that the service has are not sent again."""
        return self._link.run(put_source(source, self._bars))

    def put_array(self, name: str, array: Any) -> str:
        """Uploads vectors, (rows, parameters), for a job's `rhs`, `x0` or `h0`; the digest."""
        return self._link.run(put_array(name, array, self._bars))

    def head(self, digest: str) -> BlobRecord | None:
        """The blob's record, or None where there is none."""
        return self._link.run(head(digest))

    def get(self, digest: str) -> bytes:
        """The bytes, in memory; `download` is for large ones."""
        return self._link.run(read(digest))

    def download(self, digest: str, path: str | os.PathLike[str]) -> Path:
        """The bytes into a file: resumed where the connection broke, checked, put in place all at once."""
        return self._link.run(download(digest, path, self._bars))

    def url(
        self, digest: str, method: Method = "GET", *, size_bytes: int | None = None
    ) -> PresignedUrl:
        """A URL to give or take the bytes without the service, where the object storage can sign; else Conflict.

        What was put by it is a blob once `complete` has verified it. `size_bytes` says how many bytes will be put, so
        that their room is reserved: services that limit what a namespace stores need it.
        """
        return self._link.run(signed(digest, method, size_bytes))

    def complete(self, digest: str) -> BlobRecord:
        """Verifies bytes that were put by a URL, and makes them a blob. Raises DigestMismatch, NotFound."""
        return self._link.run(complete(digest))


@dataclass(frozen=True)
class AsyncBlobs:
    """`client.blobs` of an AsyncClient."""

    _link: AsyncTransport
    _bars: Bars

    async def put(self, source: Source) -> BlobRecord:
        """Uploads a path, bytes or an open binary file. Bytes that the service has are not sent again."""
        return await self._link.run(put_source(source, self._bars))

    async def put_array(self, name: str, array: Any) -> str:
        """Uploads vectors, (rows, parameters), for a job's `rhs`, `x0` or `h0`; the digest."""
        return await self._link.run(put_array(name, array, self._bars))

    async def head(self, digest: str) -> BlobRecord | None:
        """The blob's record, or None where there is none."""
        return await self._link.run(head(digest))

    async def get(self, digest: str) -> bytes:
        """The bytes, in memory; `download` is for large ones."""
        return await self._link.run(read(digest))

    async def download(self, digest: str, path: str | os.PathLike[str]) -> Path:
        """The bytes into a file: resumed where the connection broke, checked, put in place all at once."""
        return await self._link.run(download(digest, path, self._bars))

    async def url(
        self, digest: str, method: Method = "GET", *, size_bytes: int | None = None
    ) -> PresignedUrl:
        """A URL to give or take the bytes without the service, where the object storage can sign; else Conflict.

        The rest is as for `Blobs.url`.
        """
        return await self._link.run(signed(digest, method, size_bytes))

    async def complete(self, digest: str) -> BlobRecord:
        """Verifies bytes that were put by a URL, and makes them a blob. Raises DigestMismatch, NotFound."""
        return await self._link.run(complete(digest))
