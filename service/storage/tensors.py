"""Named tensors in a safetensors object: written whole, read by range, so that a slice costs a slice."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from safetensors.numpy import save

from service.storage.object_bytes import Bytes, ObjectBytes, Unreadable
from service.storage.objects import Objects

DTYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "|i1",
    "U64": "<u8",
    "U32": "<u4",
    "U16": "<u2",
    "U8": "|u1",
    "BOOL": "|b1",
}
_BFLOAT16 = "BF16"  # NumPy has no such type: the upper half of a float32
HEADER_BYTES = 100 * 1024**2  # the format's own limit
_LENGTH_BYTES = 8


class BadTensors(Unreadable):
    """The object is not a well-formed safetensors file; the message says why."""


@dataclass(frozen=True)
class TensorEntry:
    """One tensor of a file: [start, stop) are bytes of the object. `bfloat16`: it is so stored, and read as float32."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    start: int
    stop: int
    bfloat16: bool = False


def numbers_of(data: bytes, dtype: np.dtype[Any], bfloat16: bool = False) -> np.ndarray[Any, Any]:
    """The numbers that some bytes are, one after the other; of bfloat16 the same numbers as float32."""
    if not bfloat16:
        return np.frombuffer(data, dtype)
    return (np.frombuffer(data, "<u2").astype("<u4") << 16).view(dtype)


def write_tensors(
    objects: Objects, path: str, tensors: Mapping[str, np.ndarray[Any, Any]], note: str = ""
) -> str:
    """Writes arrays under their names, and a note beside them, unless the object is there.

    Answers the digest of the bytes that are there then.
    """
    return objects.put_first(path, tensor_bytes(tensors, note))


def tensor_bytes(tensors: Mapping[str, np.ndarray[Any, Any]], note: str = "") -> bytes:
    """The file of such arrays."""
    arrays = {name: np.asarray(array, order="C") for name, array in tensors.items()}
    return save(arrays, metadata={"note": note} if note else None)


def read_header(objects: Objects, path: str, most: int = HEADER_BYTES) -> dict[str, TensorEntry]:
    """What a file holds, every claim checked against the object's size; a header over `most` bytes is refused.

    Raises BadTensors, FileNotFoundError.
    """
    return entries_of(ObjectBytes.of(objects, path), most)


def entries_of(content: Bytes, most: int = HEADER_BYTES) -> dict[str, TensorEntry]:
    """The same of bytes that lie anywhere. Raises BadTensors."""
    if content.size < _LENGTH_BYTES:
        raise BadTensors(
            f"{content.size} bytes are too few for a safetensors file; it may be truncated"
        )
    length = int.from_bytes(content.read(0, _LENGTH_BYTES), "little")
    if length > content.size - _LENGTH_BYTES:
        raise BadTensors(
            f"its header claims {length} bytes of a file of {content.size}; it is truncated or not safetensors"
        )
    if length > most:
        raise BadTensors(f"its header has {length} bytes; at most {most} are read")
    return parse_header(content.read(_LENGTH_BYTES, length), content.size)


def read_note(objects: Objects, path: str) -> str:
    """The note that was written beside the arrays. Raises FileNotFoundError."""
    length = int.from_bytes(objects.get_range(path, 0, _LENGTH_BYTES), "little")
    described = json.loads(objects.get_range(path, _LENGTH_BYTES, length))
    return str(described.get("__metadata__", {}).get("note", ""))


def parse_header(header: bytes, size: int) -> dict[str, TensorEntry]:
    """The entries of a header, for a file of `size` bytes. Raises BadTensors."""
    try:
        described = json.loads(header)
    except (ValueError, RecursionError):
        raise BadTensors("its header is not JSON; it is damaged or not safetensors") from None
    if not isinstance(described, dict):
        raise BadTensors("its header is not a JSON object")
    base = _LENGTH_BYTES + len(header)
    return {
        name: _entry(name, entry, base, size)
        for name, entry in described.items()
        if name != "__metadata__"
    }


def _entry(name: str, entry: Any, base: int, size: int) -> TensorEntry:
    try:
        dtype, shape, (start, stop) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
        whole = all(type(number) is int and number >= 0 for number in (*shape, start, stop))
    except (KeyError, TypeError, ValueError):
        raise BadTensors(f"tensor {name!r} is described wrongly in the header") from None
    if dtype not in DTYPES and dtype != _BFLOAT16:
        known = ", ".join((*DTYPES, _BFLOAT16))
        raise BadTensors(f"tensor {name!r} has dtype {dtype!r}; known are {known}")
    expected = 2 if dtype == _BFLOAT16 else np.dtype(DTYPES[dtype]).itemsize
    for length in shape if whole else ():
        expected *= length
    if not whole or stop - start != expected or base + stop > size:
        raise BadTensors(
            f"tensor {name!r} claims shape {shape} in bytes {start} to {stop}, which are not there"
        )
    kind = np.dtype(DTYPES["F32" if dtype == _BFLOAT16 else dtype])
    return TensorEntry(kind, shape, base + start, base + stop, dtype == _BFLOAT16)


def read_tensor(
    objects: Objects, path: str, name: str, start: int = 0, stop: int | None = None
) -> np.ndarray[Any, Any]:
    """Rows [start, stop) of a tensor's first axis. Raises KeyError, BadTensors, FileNotFoundError."""
    return read_entry(objects, path, read_header(objects, path)[name], start, stop)


def read_entry(
    objects: Objects, path: str, entry: TensorEntry, start: int = 0, stop: int | None = None
) -> np.ndarray[Any, Any]:
    """Rows [start, stop) of a tensor whose header has been read; a scalar is read whole."""
    if not entry.shape:
        data = objects.get_range(path, entry.start, entry.stop - entry.start)
        return numbers_of(data, entry.dtype, entry.bfloat16).reshape(())
    rows = entry.shape[0]
    first, last, _ = slice(start, stop).indices(rows)
    row_bytes = (entry.stop - entry.start) // rows if rows else 0
    count = max(0, last - first)
    data = objects.get_range(path, entry.start + first * row_bytes, count * row_bytes)
    return numbers_of(data, entry.dtype, entry.bfloat16).reshape(count, *entry.shape[1:])
