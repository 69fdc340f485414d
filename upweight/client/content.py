"""What is uploaded: bytes, a file, or tensors written on the fly. Read twice: once to digest, once to send."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

from upweight.files.safetensors_file import SafetensorsFile, Tensor, tensor_of

CHUNK = 1 << 20  # bytes
SPOOLED = 64 << 20  # bytes of an unseekable stream that are kept in memory, the rest on disk

Source = str | os.PathLike[str] | bytes | bytearray | memoryview | IO[bytes]


@dataclass(frozen=True)
class Content:
    """Bytes that can be gone through again."""

    chunks: Callable[[], Iterable[bytes]]
    size: int
    label: str
    close: Callable[[], None] = lambda: None  # for what was opened here

    def digest(self, watched: Callable[[Iterable[bytes]], Iterable[bytes]] = iter) -> str:
        """The content address: `sha256:` and the hexadecimal digest."""
        state = hashlib.sha256()
        for chunk in watched(self.chunks()):
            state.update(chunk)
        return f"sha256:{state.hexdigest()}"


def content_of(source: Source) -> Content:
    """A path, bytes, or an open binary file (from where it stands; a stream that can't seek is spooled)."""
    if isinstance(source, bytes | bytearray | memoryview):
        view = memoryview(source).cast("B")
        return Content(lambda: _slices(view), len(view), "bytes")
    if isinstance(source, str | os.PathLike):
        path = Path(source)
        return Content(lambda: _file(path), path.stat().st_size, path.name)
    return _stream(source)


def tensors_content(tensors: dict[str, Tensor], label: str) -> Content:
    """Tensors as a safetensors file that never lies on disk."""
    file = SafetensorsFile(tensors)
    return Content(file.chunks, file.size, label)


def arrays_content(arrays: dict[str, Any], label: str) -> Content:
    """Arrays by name as a safetensors file."""
    return tensors_content({name: tensor_of(name, value) for name, value in arrays.items()}, label)


def _slices(view: memoryview) -> Iterator[bytes]:
    for start in range(0, len(view), CHUNK):
        yield bytes(view[start : start + CHUNK])


def _file(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            yield chunk


def _stream(source: IO[bytes]) -> Content:
    if not source.seekable():
        spool = tempfile.SpooledTemporaryFile(max_size=SPOOLED)  # noqa: SIM115 - lives with the content
        shutil.copyfileobj(source, spool, CHUNK)
        spool.seek(0)
        return replace(_seekable(spool, "stream"), close=spool.close)
    return _seekable(source, Path(str(getattr(source, "name", "stream"))).name)


def _seekable(file: Any, label: str) -> Content:
    start = file.tell()
    size = file.seek(0, os.SEEK_END) or file.tell()
    file.seek(start)

    def chunks() -> Iterator[bytes]:
        file.seek(start)
        while chunk := file.read(CHUNK):
            yield chunk

    return Content(chunks, size - start, label)
