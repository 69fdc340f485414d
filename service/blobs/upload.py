"""A blob on its way in: from the connection, past SHA-256, into the object storage, never whole in memory."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any, TypeVar

from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from service.blobs.records import find_blob
from service.limits.quota import Reservation
from service.parts import Parts
from service.storage.layout import blob_path, upload_path
from service.storage.read_ahead import read_ahead
from upweight.errors import DigestMismatch, InvalidRequest, NotFound, TooLarge
from upweight.schema import BlobRecord

CHUNK_BYTES = 4 * 1024**2
CHUNKS_WAITING = 2
Done = TypeVar("Done")
SILENCE_SECONDS = 60.0  # of a sender, before its thread is given to another


async def receive_blob(
    parts: Parts, namespace: str, digest: str, length: int, body: AsyncIterator[bytes]
) -> BlobRecord:
    """Stores the body under its digest. Whatever goes wrong, nothing is left behind.

    `length` in bytes; 0 where the sender did not say it. Raises DigestMismatch, TooLarge, QuotaExceeded, and
    InvalidRequest for a sender that breaks off or falls silent.
    """
    reservation = await run_in_threadpool(parts.quota.reserve, namespace, length)
    try:
        stored = await _receive(parts, namespace, digest, reservation, body)
    except BaseException:
        await run_in_threadpool(reservation.give_back)
        raise
    await run_in_threadpool(reservation.settle, stored.size_bytes)
    return stored


async def _receive(
    parts: Parts, namespace: str, digest: str, reservation: Reservation, body: AsyncIterator[bytes]
) -> BlobRecord:
    pipe = _Pipe(asyncio.get_running_loop())
    path = blob_path(namespace, digest)
    checked = verified(iter(pipe), digest, parts.settings.blob_bytes, reservation)
    stored = in_thread(parts.uploads, lambda: parts.objects.put_stream(path, checked))
    try:
        await pipe.fill(body, stored)
    except BaseException as error:
        pipe.fail(error)
        await asyncio.wait([stored])
        stored.exception()  # asked for, or asyncio logs that nobody did; `error` is what is answered
        raise
    await stored
    return BlobRecord(digest=digest, size_bytes=pipe.size)


def in_thread(pool: ThreadPoolExecutor, work: Callable[[], Done]) -> asyncio.Future[Done]:
    """Work in a thread of its own pool."""
    return asyncio.get_running_loop().run_in_executor(pool, work)


def verified(
    chunks: Iterator[bytes], digest: str, limit: int, reservation: Reservation
) -> Iterator[bytes]:
    """The chunks, unchanged, once there is room for them. Raises at their end when they are not what the digest says:
    so nothing is stored."""
    seen, size = hashlib.sha256(), 0
    for chunk in chunks:
        size += len(chunk)
        if size > limit:
            raise too_large(limit)
        reservation.cover(size)
        seen.update(chunk)
        yield chunk
    actual = f"sha256:{seen.hexdigest()}"
    if actual != digest:
        raise DigestMismatch.field(
            "path:digest",
            f"the {size} bytes that arrived have the digest {actual}; send the bytes again, or under this digest",
            digest,
        )


def too_large(limit: int) -> TooLarge:
    """The error of a blob over the limit."""
    return TooLarge(f"a blob may have {limit} bytes; split the data into several (shards)")


class _Pipe:
    """Chunks from the event loop to the thread that stores them; a full pipe makes the sender wait."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._chunks: SimpleQueue[bytes | BaseException | None] = SimpleQueue()
        self._room = asyncio.Semaphore(CHUNKS_WAITING)
        self.size = 0

    async def fill(self, body: AsyncIterator[bytes], stored: asyncio.Future[None]) -> None:
        """Passes the body on in chunks. Raises what storing raised when that ends first."""
        async for chunk in _coalesced(body):
            self.size += len(chunk)
            await self._for_room(stored)
            self._chunks.put(chunk)
        self._chunks.put(None)

    async def _for_room(self, stored: asyncio.Future[None]) -> None:
        room: asyncio.Future[Any] = asyncio.ensure_future(self._room.acquire())
        either: list[asyncio.Future[Any]] = [room, stored]
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if stored.done():
            room.cancel()
            stored.result()

    def fail(self, error: BaseException) -> None:
        """Makes the storing end with an error, and so without an object."""
        self._chunks.put(error)

    def __iter__(self) -> Iterator[bytes]:
        while (chunk := self._chunks.get()) is not None:
            if isinstance(chunk, BaseException):
                raise _Broken from chunk
            yield chunk
            self._loop.call_soon_threadsafe(self._room.release)


class _Broken(Exception):
    """The sender is gone."""


async def _coalesced(body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The body in chunks of a few MiB: fewer changes of thread, fewer writes."""
    pending: list[bytes] = []
    size = 0
    try:
        while (part := await asyncio.wait_for(anext(body, None), SILENCE_SECONDS)) is not None:
            pending.append(part)
            size += len(part)
            if size >= CHUNK_BYTES:
                yield b"".join(pending)
                pending, size = [], 0
    except ClientDisconnect:
        raise InvalidRequest("the sender broke off before the body's end; send it again") from None
    except TimeoutError:
        raise InvalidRequest(
            f"nothing arrived for {SILENCE_SECONDS:.0f} seconds; send it again"
        ) from None
    if pending:
        yield b"".join(pending)


async def accept_upload(parts: Parts, namespace: str, digest: str) -> tuple[BlobRecord, bool]:
    """The blob that came by a presigned URL, read once, past SHA-256, and written as a blob; and whether it is new.

    The bytes that were verified are those that are written. A copy inside the storage could be of others, for the
    holder of the URL may write again between the look and the copy. Raises NotFound when nothing came, QuotaExceeded
    when more came than was reserved, and DigestMismatch or TooLarge, which delete what came and give its room back.
    """
    return await in_thread(parts.uploads, lambda: _accept(parts, namespace, digest))


def _accept(parts: Parts, namespace: str, digest: str) -> tuple[BlobRecord, bool]:
    objects, path = parts.objects, upload_path(namespace, digest)
    limit = parts.settings.blob_bytes
    reservation = parts.quota.reservation_by_url(namespace, digest)
    found = find_blob(objects, namespace, digest)
    if found is not None:
        objects.delete([path])
        reservation.give_back()
        return found, False
    try:
        meta = objects.head(path)
        if meta is None:
            raise FileNotFoundError(path)
        if meta.size > limit:
            raise too_large(limit)
        reservation.cover(max(meta.size, 1))
        # In another thread: what an object is written from can't read objects in the same one.
        chunks = verified(read_ahead(objects.open_stream(path)), digest, limit, reservation)
        objects.put_stream(blob_path(namespace, digest), chunks)
    except FileNotFoundError:
        found = find_blob(objects, namespace, digest)  # completed by another meanwhile
        if found is not None:
            reservation.give_back()
            return found, False
        raise NotFound(
            f"nothing has come for {digest}; PUT the bytes to the URL that POST /v1/blobs/{digest}/url?method=PUT "
            "answers, then complete"
        ) from None
    except (DigestMismatch, TooLarge):
        objects.delete([path])
        reservation.give_back()
        raise
    reservation.settle(meta.size)
    objects.delete([path])
    return BlobRecord(digest=digest, size_bytes=meta.size), True
