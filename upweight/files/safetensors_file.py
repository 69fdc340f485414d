"""Writes safetensors: 8 bytes of header length, a JSON header, the raw tensors. Streamed; nothing is held twice.

For reading, and for anything more, there is the `safetensors` package; the SDK does not depend on it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import upweight.late.numpy as np
from upweight.errors import InvalidRequest

if TYPE_CHECKING:
    from numpy.typing import NDArray


CHUNK = 1 << 20  # bytes
NAMES = {
    "float64": "F64", "float32": "F32", "float16": "F16",
    "int64": "I64", "int32": "I32", "int16": "I16", "int8": "I8",
    "uint64": "U64", "uint32": "U32", "uint16": "U16", "uint8": "U8", "bool": "BOOL",
}  # fmt: skip


@dataclass(frozen=True)
class Tensor:
    """An array and the name of its type in the format (`BF16` travels in an array of 16-bit integers)."""

    array: NDArray[Any]
    dtype: str

    @property
    def size(self) -> int:
        return math.prod(self.array.shape) * self.array.dtype.itemsize

    def rows(self, start: int, stop: int) -> Tensor:
        """Some rows, not copied."""
        return Tensor(self.array[start:stop], self.dtype)

    def chunks(self) -> Iterator[bytes]:
        """The bytes in C order, little-endian, about a megabyte at a time, whatever the array's layout."""
        array = self.array.reshape(1) if self.array.ndim == 0 else self.array
        if not array.size:
            return
        step = max(1, CHUNK * len(array) // self.size)
        for start in range(0, len(array), step):
            rows = np.ascontiguousarray(array[start : start + step])
            yield rows.astype(rows.dtype.newbyteorder("<"), copy=False).tobytes()


@dataclass(frozen=True)
class SafetensorsFile:
    """Tensors by name, as a file that is made while it is read."""

    tensors: Mapping[str, Tensor]

    def chunks(self) -> Iterator[bytes]:
        """The file's bytes."""
        yield self._header()
        for name in self._order():
            yield from self.tensors[name].chunks()

    @property
    def size(self) -> int:
        return len(self._header()) + sum(tensor.size for tensor in self.tensors.values())

    def _order(self) -> list[str]:
        # Wide types first, so that every tensor begins at a multiple of its width.
        return sorted(self.tensors, key=lambda n: (-self.tensors[n].array.dtype.itemsize, n))

    def _header(self) -> bytes:
        entries: dict[str, Any] = {}
        offset = 0
        for name in self._order():
            tensor = self.tensors[name]
            entries[name] = {
                "dtype": tensor.dtype,
                "shape": list(tensor.array.shape),
                "data_offsets": [offset, offset + tensor.size],
            }
            offset += tensor.size
        header = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
        header += b" " * (-len(header) % 8)
        return len(header).to_bytes(8, "little") + header


def tensor_of(name: str, value: Any) -> Tensor:
    """A numpy array, a torch tensor on any device, or lists of numbers. Not copied where that can be helped."""
    if hasattr(value, "detach"):  # a torch tensor; torch itself is not imported here
        value = value.detach().cpu()
        if str(value.dtype) == "torch.bfloat16":
            return Tensor(_bits(value), "BF16")
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as exc:
        raise _refusal(name, _uneven(value) or f"can't be read as an array: {exc}") from exc
    dtype = NAMES.get(array.dtype.name)
    if dtype is None:
        words = (
            "; encode words first: as token ids, or a number for each category (pandas.get_dummies)"
            if array.dtype.kind in "OSU"
            else ""
        )
        raise _refusal(name, f"has type {array.dtype}; numbers and booleans can be stored{words}")
    return Tensor(array, dtype)


def _bits(tensor: Any) -> NDArray[Any]:
    import torch  # the value is one of its tensors: it is imported already

    bits: NDArray[Any] = tensor.contiguous().view(torch.int16).numpy()
    return bits


def _uneven(value: Any) -> str | None:
    """Of lists of different lengths, the first two that differ; None of anything else."""
    if not isinstance(value, list | tuple):
        return None
    lengths = [len(row) if hasattr(row, "__len__") else None for row in value]
    odd = next((at for at, length in enumerate(lengths) if length != lengths[0]), None)
    if odd is None or lengths[0] is None or lengths[odd] is None:
        return None
    first, other = lengths[0], lengths[odd]
    return f"has rows of different lengths: row 0 has {first}, row {odd} has {other}; pad them to one length"


def _refusal(name: str, words: str) -> InvalidRequest:
    error = InvalidRequest.field(f"/{name}", f"{name!r} {words}")
    assert isinstance(error, InvalidRequest)
    return error
