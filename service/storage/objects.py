"""Objects by path: a folder, S3, GCS or Azure behind one interface. Nothing else touches obstore's functions.

All calls block: the front end makes them from threads (obstore's asynchronous calls can abort the interpreter at
exit). The only conditional write relied on is create-if-absent, which `verify` tests against the store. What fails
is tried again for a while, then raised as Unavailable.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import obstore
from obstore.exceptions import AlreadyExistsError

from service.logs import log
from service.settings import Settings
from service.storage.failures import persistently, translated, writing
from service.storage.layout import SELF_TEST
from service.storage.stores import DEFAULTS, StoreOptions, folder_of, open_store
from upweight.errors import Unavailable

PART_BYTES = 8 * 1024**2  # of a multipart upload; S3 takes 10,000 parts at most: 80 GB
_WHOLE_BYTES = 32 * 1024**2  # more is written in parts and read in pieces, each within the timeout
_FRONT_SECONDS = 10.0  # a request's sender waits no longer for a storage that fails
_DELETED_AT_ONCE = 1000
_CONFLICT_SECONDS = 0.2
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class ObjectMeta:
    """An object's path, size in bytes, time of writing, and the store's name for just these bytes."""

    path: str
    size: int
    modified: datetime
    etag: str | None = None


class Objects:
    """Bytes by path. Paths are ours alone: nothing a user names becomes part of one unchecked."""

    def __init__(self, url: str, options: StoreOptions = DEFAULTS, *, create: bool = True) -> None:
        self.url = url.rstrip("/")
        self.options = options
        self._store = open_store(url, options, create=create)

    @classmethod
    def of(cls, settings: Settings, *, front: bool = False) -> Objects:
        """The service's storage; the front end is less patient with it. Raises Unavailable."""
        return cls(settings.storage, store_options(settings, front=front))

    @property
    def folder(self) -> Path | None:
        """Where the objects lie as files, when they do."""
        return folder_of(self.url)

    def verify(self) -> None:
        """Refuses a store that can't be written, or overwrites where create-if-absent is asked for.

        Raises Unavailable.
        """
        path = f"{SELF_TEST}/{uuid4().hex}"
        honoured = self.put_new(path, b"1") and not self.put_new(path, b"2")
        if not honoured:
            raise Unavailable(
                "the object storage ignores create-if-absent (If-None-Match: *): of two writers of one object, "
                "the second silently won, and results rest on that it can't; use a storage that honours it: a "
                "folder, Amazon S3, or a server that documents conditional writes"
            )
        self.delete([path])

    def put_new(self, path: str, data: bytes) -> bool:
        """Writes an object whole unless there is one; whether the object now holds these bytes.

        So a creation whose answer was lost is a success when it is tried again, and two writers of the same bytes
        both succeed; False means that the object holds others.
        """
        deadline = time.monotonic() + self.options.retry_seconds
        while True:
            with writing():
                try:
                    self._asked(lambda: self._create(path, data))
                    return True
                except AlreadyExistsError:
                    pass
            # S3 says the same while another's creation is still under way, and may yet fail.
            meta = self.head(path)
            if meta is not None:
                return self._holds(meta, data)
            if time.monotonic() > deadline:
                raise Unavailable(
                    "the object storage says that an object is there, and that it is not",
                    retry_after=5,
                )
            time.sleep(_CONFLICT_SECONDS)

    def _asked(self, action: Callable[[], Answer]) -> Answer:
        """What the store answers, asked again while the network fails: for all that may be done twice."""
        with translated():
            return persistently(action, self.options.retry_seconds)

    def put_first(self, path: str, data: bytes) -> str:
        """Writes an object whole unless there is one; the digest of what it holds then.

        What is there stays: of two workers at one block the first has written it, and all that is said of the block
        must be true of its bytes. That they differ is a matter of other hardware, and logged.
        """
        if self.put_new(path, data):
            return f"sha256:{hashlib.sha256(data).hexdigest()}"
        log("object-differs", level="warning", path=path)
        return self.digest(path)

    def digest(self, path: str) -> str:
        """Of the bytes of an object. Raises FileNotFoundError."""
        hash = hashlib.sha256()
        for chunk in self.open_stream(path):
            hash.update(chunk)
        return f"sha256:{hash.hexdigest()}"

    def _create(self, path: str, data: bytes) -> None:
        obstore.put(self._store, path, data, mode="create", use_multipart=False)

    def _holds(self, meta: ObjectMeta, data: bytes) -> bool:
        if meta.size != len(data):
            return False
        position = 0
        for chunk in self._chunks(meta.path, 0, meta.size):
            if data[position : position + len(chunk)] != chunk:
                return False
            position += len(chunk)
        return True

    def put(self, path: str, data: bytes) -> None:
        """Writes an object whole, replacing what is there."""
        with writing():
            self._asked(lambda: self._replace(path, data))

    def _replace(self, path: str, data: bytes) -> None:
        in_parts = len(data) > _WHOLE_BYTES
        obstore.put(self._store, path, data, use_multipart=in_parts, chunk_size=PART_BYTES)

    def put_stream(self, path: str, chunks: Iterator[bytes]) -> None:
        """Writes an object from chunks. If the iterator raises, nothing is left and that error goes on.

        The iterator may not read or write objects itself, unless in another thread (`read_ahead`).
        """
        failure: list[BaseException] = []
        with writing(failure), translated(failure):
            obstore.put(
                self._store,
                path,
                _remembering(chunks, failure),
                use_multipart=True,
                chunk_size=PART_BYTES,
                max_concurrency=2,
            )

    def get(self, path: str) -> bytes:
        """The whole object. Raises FileNotFoundError."""
        return self._asked(lambda: bytes(obstore.get(self._store, path).bytes()))

    def get_range(self, path: str, start: int, length: int) -> bytes:
        """Bytes [start, start + length) of an object, which must be there. Raises FileNotFoundError."""
        if length == 0:
            return b""
        stop = start + length
        pieces = [
            self._piece(path, at, min(_WHOLE_BYTES, stop - at))
            for at in range(start, stop, _WHOLE_BYTES)
        ]
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _piece(self, path: str, start: int, length: int) -> bytes:
        return self._asked(
            lambda: bytes(obstore.get_range(self._store, path, start=start, length=length))
        )

    def get_unchanged(self, path: str, etag: str, start: int, length: int) -> bytes:
        """Bytes of an object that is still the one with this etag. Raises Changed, FileNotFoundError."""
        if length == 0:
            return b""
        options: Any = {"range": (start, start + length), "if_match": etag}
        return self._asked(lambda: bytes(obstore.get(self._store, path, options=options).bytes()))

    def get_ranges(self, path: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Several (start, length) ranges at once; near ones are fetched together."""
        if not ranges:
            return []
        starts, lengths = [start for start, _ in ranges], [length for _, length in ranges]
        found = self._asked(
            lambda: obstore.get_ranges(self._store, path, starts=starts, lengths=lengths)
        )
        return [bytes(part) for part in found]

    def open_stream(self, path: str, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """Bytes [start, stop) in chunks of a few MiB, fetched as they are asked for."""
        meta = self.head(path)
        if meta is None:
            raise FileNotFoundError(path)
        end = meta.size if stop is None else min(stop, meta.size)
        return self._chunks(path, start, end)

    def _chunks(self, path: str, start: int, end: int) -> Iterator[bytes]:
        for position in range(start, end, PART_BYTES):
            yield self.get_range(path, position, min(PART_BYTES, end - position))

    def head(self, path: str) -> ObjectMeta | None:
        """What is known of an object, or None."""
        try:
            return _meta(self._asked(lambda: obstore.head(self._store, path)))
        except FileNotFoundError:
            return None

    def walk(self, prefix: str = "") -> Iterator[ObjectMeta]:
        """Objects below a prefix (whole path segments), a page at a time."""
        pages = _Pages(self._store, prefix or None)
        while page := self._asked(pages.next):
            for meta in page:
                yield _meta(meta)

    def delete(self, paths: Sequence[str]) -> None:
        """Deletes objects; those that are not there are passed over."""
        for start in range(0, len(paths), _DELETED_AT_ONCE):
            some = list(paths[start : start + _DELETED_AT_ONCE])
            try:
                self._asked(partial(obstore.delete, self._store, some))
            except FileNotFoundError:  # it says nothing of the others
                self._delete_each(some)

    def _delete_each(self, paths: Sequence[str]) -> None:
        for path in paths:
            with suppress(FileNotFoundError):
                self._asked(partial(obstore.delete, self._store, path))

    def delete_prefix(self, prefix: str) -> None:
        """Deletes all objects below a prefix."""
        some: list[str] = []
        for meta in self.walk(prefix):
            some.append(meta.path)
            if len(some) == _DELETED_AT_ONCE:
                self.delete(some)
                some = []
        self.delete(some)

    def sign_or_none(self, method: str, path: str, seconds: int) -> str | None:
        """A presigned URL, or None where the store cannot sign (a folder)."""
        if self.folder is not None:
            return None
        with translated():
            return str(obstore.sign(self._store, method, path, timedelta(seconds=seconds)))  # type: ignore[call-overload]


class _Pages:
    """A listing that goes on behind the last page that came whole, when it is asked for again."""

    def __init__(self, store: Any, prefix: str | None) -> None:
        self._store, self._prefix = store, prefix
        self._last: str | None = None
        self._pages: Iterator[Any] | None = None

    def next(self) -> Sequence[Any]:
        """The next page; empty after the last."""
        if self._pages is None:
            self._pages = iter(obstore.list(self._store, self._prefix, offset=self._last))
        try:
            page: Sequence[Any] = next(self._pages, ())
        except BaseException:
            self._pages = None
            raise
        if page:
            self._last = page[-1]["path"]
        return page


def store_options(settings: Settings, *, front: bool = False) -> StoreOptions:
    """How the settings say that stores are reached."""
    patience = settings.storage_retry_seconds
    return StoreOptions(
        endpoint=settings.storage_endpoint,
        region=settings.storage_region,
        allow_http=settings.storage_allow_http,
        timeout_seconds=settings.storage_timeout_seconds,
        retry_seconds=min(_FRONT_SECONDS, patience) if front else patience,
    )


def _meta(found: Any) -> ObjectMeta:
    return ObjectMeta(found["path"], found["size"], found["last_modified"], found["e_tag"])


def _remembering(chunks: Iterator[bytes], failure: list[BaseException]) -> Iterator[bytes]:
    """obstore wraps what an iterator raises in an error of its own; the original is kept here."""
    try:
        yield from chunks
    except GeneratorExit:  # not its failure: the storage took no more
        raise
    except BaseException as error:
        failure.append(error)
        raise
