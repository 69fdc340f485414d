"""Objects by path: a folder, S3, GCS or Azure behind one interface. Nothing else touches obstore.

All calls block: the front end makes them from threads (obstore's asynchronous calls can abort the interpreter at
exit). The only conditional write relied on is create-if-absent, which `verify` tests against the store.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError

from upweight.errors import Unavailable

PART_BYTES = 8 * 1024**2  # of a multipart upload; S3 takes 10,000 parts at most: 80 GB


@dataclass(frozen=True)
class ObjectMeta:
    """An object's path, its size in bytes, and when it was written."""

    path: str
    size: int
    modified: datetime


class Objects:
    """Bytes by path. Paths are ours alone: nothing a user names becomes part of one unchecked."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._store = _open(url)

    def rooted_at(self, path: str) -> Any:
        """An obstore store whose root is a path of this one, for Zarr (which writes groups up to the root)."""
        return _open(f"{self._url.rstrip('/')}/{path}")

    def verify(self) -> None:
        """Refuses a store that silently overwrites where create-if-absent is asked for. Raises Unavailable."""
        path = f"self-test/{uuid4().hex}"
        try:
            honoured = self.put_new(path, b"1") and not self.put_new(path, b"2")
        finally:
            self.delete([path])
        if not honoured:
            raise Unavailable(
                "the object storage ignores create-if-absent (If-None-Match: *), which results rest on; "
                "use a storage that honours it"
            )

    def put_new(self, path: str, data: bytes) -> bool:
        """Writes an object whole unless there is one; says whether it was written."""
        with _translated():
            try:
                obstore.put(self._store, path, data, mode="create", use_multipart=False)
            except AlreadyExistsError:
                return False
        return True

    def put(self, path: str, data: bytes) -> None:
        """Writes an object whole, replacing what is there."""
        with _translated():
            obstore.put(self._store, path, data, use_multipart=False)

    def put_stream(self, path: str, chunks: Iterator[bytes]) -> None:
        """Writes an object from chunks. If the iterator raises, nothing is left and that error goes on."""
        failure: list[BaseException] = []
        with _translated(failure):
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
        with _translated():
            return bytes(obstore.get(self._store, path).bytes())

    def get_range(self, path: str, start: int, length: int) -> bytes:
        """Bytes [start, start + length) of an object, which must be there. Raises FileNotFoundError."""
        if length == 0:
            return b""
        with _translated():
            return bytes(obstore.get_range(self._store, path, start=start, length=length))

    def get_ranges(self, path: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Several (start, length) ranges at once; near ones are fetched together."""
        if not ranges:
            return []
        starts, lengths = [start for start, _ in ranges], [length for _, length in ranges]
        with _translated():
            found = obstore.get_ranges(self._store, path, starts=starts, lengths=lengths)
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
        """An object's size, or None."""
        with _translated():
            try:
                meta = obstore.head(self._store, path)
            except FileNotFoundError:
                return None
        return ObjectMeta(path, meta["size"], meta["last_modified"])

    def walk(self, prefix: str) -> Iterator[ObjectMeta]:
        """Objects below a prefix (whole path segments), a page at a time."""
        with _translated():
            for page in obstore.list(self._store, prefix):
                for meta in page:
                    yield ObjectMeta(meta["path"], meta["size"], meta["last_modified"])

    def broken_uploads(self) -> Iterator[Path]:
        """Files that uploads left behind whose process was killed; a remote storage keeps its own, out of sight."""
        if type(self._store).__name__ == "LocalStore":
            yield from (each for each in _folder(self._url).rglob("*#*") if each.is_file())

    def delete(self, paths: Sequence[str]) -> None:
        """Deletes objects; those that are not there are passed over."""
        for path in paths:
            with _translated():
                try:
                    obstore.delete(self._store, path)
                except FileNotFoundError:
                    continue

    def delete_prefix(self, prefix: str) -> None:
        """Deletes all objects below a prefix."""
        self.delete([meta.path for meta in self.walk(prefix)])

    def sign_or_none(self, method: str, path: str, seconds: int) -> str | None:
        """A presigned URL, or None where the store cannot sign (a folder)."""
        if not hasattr(self._store, "config") or type(self._store).__name__ in (
            "LocalStore",
            "MemoryStore",
        ):
            return None
        with _translated():
            return str(obstore.sign(self._store, method, path, timedelta(seconds=seconds)))  # type: ignore[call-overload]


def _open(url: str) -> Any:
    if "://" in url and not url.startswith("file://"):
        return obstore.store.from_url(url)
    folder = _folder(url)
    folder.mkdir(parents=True, exist_ok=True)
    return obstore.store.LocalStore(str(folder), automatic_cleanup=True)


def _folder(url: str) -> Path:
    return Path(url.removeprefix("file://")).absolute()


def _remembering(chunks: Iterator[bytes], failure: list[BaseException]) -> Iterator[bytes]:
    """obstore wraps what an iterator raises in an error of its own; the original is kept here."""
    try:
        yield from chunks
    except BaseException as error:
        failure.append(error)
        raise


@contextmanager
def _translated(failure: Sequence[BaseException] = ()) -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, AlreadyExistsError):
        raise
    except (BaseError, OSError) as error:
        if failure:
            raise failure[0] from None
        raise Unavailable(
            f"the object storage does not answer as it should: {_first_line(error)}", retry_after=5
        ) from error


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__
