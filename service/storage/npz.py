"""NumPy's npz, strictly: plain arrays only, and no claim of a header is believed before the file's size allows it."""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy

from service.storage.object_bytes import Unreadable

MAXIMUM_MEMBERS = 1000
MAXIMUM_RATIO = 1000  # uncompressed to compressed; zeros reach it, bombs go far beyond
_HEADER_BYTES = 10_000
_LOCAL_HEADER = (
    30  # bytes before a member's name; the lengths of name and extra field are the last four
)
_NAME_LENGTH_AT = 26
_PIECE_BYTES = 4 * 1024**2
_SLACK = 1024**2  # small members of any ratio are harmless
# All that zipfile and zlib raise at bytes that were changed: unknown versions and methods, lengths that lie.
_DAMAGED = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    KeyError,
    NotImplementedError,
    OSError,
    OverflowError,
    RuntimeError,
    ValueError,
)


class BadArchive(Unreadable):
    """The file is not an npz that we read; the message says why."""


@dataclass(frozen=True)
class NpzEntry:
    """One array of the archive: its dtype and shape as its header says and its size confirms."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    fortran: bool = False  # the first axis runs fastest


class NpzFile:
    """The arrays of an archive: a file, or an open one. Opening it reads headers only. Raises BadArchive.

    An array of more than `most` bytes is not read: null means any.
    """

    def __init__(self, file: Path | IO[bytes], most: int | None = None) -> None:
        self._most = most
        try:
            self._zip = zipfile.ZipFile(file)
        except _DAMAGED as error:
            raise BadArchive(f"it is not a zip archive, or is truncated ({error})") from None
        self.entries = dict(self._entry(info) for info in self._members())

    def _members(self) -> list[zipfile.ZipInfo]:
        members = self._zip.infolist()
        if len(members) > MAXIMUM_MEMBERS:
            raise BadArchive(f"it has {len(members)} members; at most {MAXIMUM_MEMBERS} are read")
        if len({info.filename for info in members}) != len(members):
            raise BadArchive("two of its members have the same name")
        for info in members:
            if info.flag_bits & 0x1:
                raise BadArchive(f"member {info.filename!r} is encrypted")
            if info.file_size > _SLACK and info.file_size > MAXIMUM_RATIO * max(
                1, info.compress_size
            ):
                raise BadArchive(
                    f"member {info.filename!r} claims to unpack to {info.file_size} bytes from {info.compress_size}"
                )
        return members

    def _entry(self, info: zipfile.ZipInfo) -> tuple[str, NpzEntry]:
        if not info.filename.endswith(".npy"):
            raise BadArchive(f"member {info.filename!r} is not an array (.npy)")
        with self._open(info.filename) as file:
            dtype, shape, fortran = _header(file, info.filename)
            held = info.file_size - file.tell()
        if prod(shape) * dtype.itemsize != held:
            raise BadArchive(
                f"{info.filename!r} claims shape {shape} of {dtype}, but holds {held} bytes"
            )
        return info.filename.removesuffix(".npy"), NpzEntry(dtype, shape, fortran)

    def _open(self, name: str) -> IO[bytes]:
        try:
            return self._zip.open(name)
        except _DAMAGED as error:
            raise BadArchive(f"member {name!r} can't be opened ({error})") from None

    def read(self, name: str) -> np.ndarray[Any, Any]:
        """One array, whole. Raises KeyError, BadArchive."""
        entry = self.entries[name]
        size = prod(entry.shape) * entry.dtype.itemsize
        if self._most is not None and size > self._most:
            raise BadArchive(
                f"{name!r} has {size} bytes; at most {self._most} are unpacked here; "
                "written without compression (numpy.savez), any row can be read"
            )
        flat = np.frombuffer(b"".join(self.unpacked(name)), entry.dtype)
        return flat.reshape(entry.shape[::-1]).T if entry.fortran else flat.reshape(entry.shape)

    def start(self, name: str) -> int | None:
        """Where an array's bytes begin in the file; None where they are compressed. Raises KeyError, BadArchive."""
        info = self._zip.getinfo(f"{name}.npy")
        if info.compress_type != zipfile.ZIP_STORED:
            return None
        with self._open(info.filename) as file:
            _header(file, name)
            header = file.tell()
        raw = self._zip.fp
        assert raw is not None
        raw.seek(info.header_offset + _NAME_LENGTH_AT)
        name_length, extra_length = struct.unpack("<HH", raw.read(4))
        return info.header_offset + _LOCAL_HEADER + name_length + extra_length + header

    def unpacked(self, name: str) -> Iterator[bytes]:
        """An array's bytes in order, in pieces, as it lies in the file. Raises KeyError, BadArchive."""
        entry = self.entries[name]
        left = prod(entry.shape) * entry.dtype.itemsize
        try:
            with self._open(f"{name}.npy") as file:
                _header(file, name)
                while left:
                    piece = file.read(min(left, _PIECE_BYTES))
                    if not piece:
                        raise BadArchive(f"{name!r} ends {left} bytes too early")
                    left -= len(piece)
                    yield piece
        except BadArchive:
            raise
        except _DAMAGED as error:
            raise BadArchive(f"{name!r} is damaged ({error})") from None

    def close(self) -> None:
        """Closes the file."""
        self._zip.close()


def _header(file: IO[bytes], name: str) -> tuple[np.dtype[Any], tuple[int, ...], bool]:
    try:
        version = npy.read_magic(file)
        read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}[version]
        shape, fortran, dtype = read(file, max_header_size=_HEADER_BYTES)
    except _DAMAGED as error:
        raise BadArchive(f"{name!r} is not a plain NumPy array ({error})") from None
    if dtype.hasobject:
        raise BadArchive(
            f"{name!r} holds Python objects (a pickle), which are never read; store numbers"
        )
    if any(length < 0 for length in shape):
        raise BadArchive(f"{name!r} claims shape {shape}")
    return dtype, tuple(shape), bool(fortran)
