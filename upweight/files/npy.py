"""Reads a .npy body while it arrives, straight into the array it becomes. No pickled objects, ever."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import upweight.late.numpy as np
from upweight.http.flow import UnexpectedAnswer
from upweight.progress import Bar

if TYPE_CHECKING:
    from numpy.typing import NDArray


LARGEST_HEADER = 1 << 16  # bytes
MAGIC = 10  # bytes: six of magic, two of version, at least two of header length


class NpySink:
    """A sink whose body is a .npy file."""

    def __init__(self, bar: Bar | None = None) -> None:
        self._bar = bar
        self._reset()

    def _reset(self) -> None:
        self._head = b""
        self._array: NDArray[Any] | None = None
        self._fortran = False
        self._filled = 0

    def headers(self) -> Mapping[str, str]:
        return {"Accept": "application/x-npy"}

    def begin(self, status: int, headers: Mapping[str, str]) -> None:
        self._reset()
        if self._bar:
            self._bar.to(0, int(headers.get("content-length", 0)) or None)

    def write(self, chunk: bytes) -> None:
        if self._bar:
            self._bar.advance(len(chunk))
        if self._array is None:
            self._head += chunk
            chunk = self._open()
        if self._array is not None and chunk:
            self._fill(chunk)

    def finish(self) -> None:
        if self._array is None or self._filled != self._array.nbytes:
            raise UnexpectedAnswer("the array ended early; fetch it again")

    def array(self) -> NDArray[Any]:
        """The array, once finished."""
        assert self._array is not None
        array = self._array
        return array.reshape(array.shape[::-1]).T if self._fortran else array

    def _open(self) -> bytes:
        """Tries to read the header; gives back the bytes after it, or nothing when it is not there yet."""
        length = _header_length(self._head)
        if length is None or len(self._head) < length:
            return b""
        shape, self._fortran, dtype = _header(io.BytesIO(self._head[:length]))
        self._array = np.empty(shape, dtype)
        rest, self._head = self._head[length:], b""
        return rest

    def _fill(self, chunk: bytes) -> None:
        assert self._array is not None
        end = self._filled + len(chunk)
        if end > self._array.nbytes:
            raise UnexpectedAnswer("the array is longer than its header says")
        flat = self._array.reshape(-1).view(np.uint8)
        flat[self._filled : end] = np.frombuffer(chunk, np.uint8)
        self._filled = end


def _header_length(head: bytes) -> int | None:
    if len(head) < MAGIC + 2:
        return None
    wide = head[6] >= 2
    length = int.from_bytes(head[8 : 12 if wide else 10], "little")
    if head[:6] != np.lib.format.MAGIC_PREFIX or length > LARGEST_HEADER:
        raise UnexpectedAnswer("the answer is not an array in .npy format")
    return (12 if wide else 10) + length


def _header(file: io.BytesIO) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    try:
        version = np.lib.format.read_magic(file)
        read = (
            np.lib.format.read_array_header_1_0
            if version[0] == 1
            else np.lib.format.read_array_header_2_0
        )
        shape, fortran, dtype = read(file)
    except ValueError as exc:
        raise UnexpectedAnswer(f"the array's header can't be read: {exc}") from exc
    if dtype.hasobject:
        raise UnexpectedAnswer("the array holds Python objects, which are never loaded")
    return shape, fortran, dtype
