"""In which format numbers leave: npy or Arrow in blocks, or JSON while they are few. NaN never leaves in JSON."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from math import prod
from typing import Any, Literal

import numpy as np
from starlette.responses import StreamingResponse

from upweight.errors import NotAcceptable

NPY = "application/x-npy"
ARROW = "application/vnd.apache.arrow.stream"
JSON = "application/json"
# In the OpenAPI document.
NPY_CONTENT: dict[str, Any] = {NPY: {"schema": {"type": "string", "format": "binary"}}}
BINARY_CONTENT: dict[str, Any] = dict.fromkeys((NPY, ARROW), NPY_CONTENT[NPY])
Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Numbers:
    """An array that is not there yet: its shape, and the blocks of its first axis in order.

    `pieces`: the same numbers in the same order, cut further where one position of the first axis is large.
    `flat`: the first axis is λ, and blocks are of the second, λ after λ.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    blocks: Iterator[Array]
    pieces: Iterator[Array] | None = None
    flat: bool = False

    @property
    def count(self) -> int:
        """How many numbers."""
        return prod(self.shape)

    def whole(self) -> Array:
        """All of it, for few numbers."""
        blocks = list(self.blocks)
        found = np.concatenate(blocks) if blocks else np.empty(self.shape, self.dtype)
        return found.reshape(self.shape)

    @property
    def record_shape(self) -> tuple[int, ...]:
        """Of one position of the axis that blocks are of."""
        return self.shape[2:] if self.flat else self.shape[1:]


def chosen_format(accept: str | None, count: int, limit: int) -> Literal["npy", "arrow", "json"]:
    """What to answer. Raises NotAcceptable, telling what would be."""
    kinds = _by_preference(accept)
    for kind in kinds:
        if kind in (NPY, "application/octet-stream"):
            return "npy"
        if kind == ARROW:
            return "arrow"
        if kind in (JSON, "*/*", "application/*"):
            if count <= limit:
                return "json"
            binary = [other for other in kinds if other in (NPY, ARROW)]
            if kind == JSON and binary:
                return "npy" if binary[0] == NPY else "arrow"
            raise NotAcceptable(
                f"{count} numbers are too many for JSON (at most {limit}); "
                f"send 'Accept: {NPY}', or ask for a smaller slice"
            )
    raise NotAcceptable(
        f"offered are {NPY}, {ARROW} and, for few numbers, {JSON}; asked for was {accept!r}"
    )


def _by_preference(accept: str | None) -> list[str]:
    if accept is None or not accept.strip():
        return ["*/*"]
    weighed = []
    for part in accept.split(","):
        kind, *parameters = (piece.strip().lower() for piece in part.split(";"))
        weighed.append((_weight(parameters), kind))
    ordered = sorted(weighed, key=lambda pair: -pair[0])  # stable: as written among equals
    return [kind for weight, kind in ordered if weight > 0]


def _weight(parameters: Sequence[str]) -> float:
    for parameter in parameters:
        if parameter.startswith("q="):
            try:
                return float(parameter[2:])
            except ValueError:
                return 0.0
    return 1.0


def npy_response(numbers: Numbers) -> StreamingResponse:
    """An npy file, its length known, sent block by block."""
    dtype = numbers.dtype.newbyteorder("<")
    header = _npy_header(numbers.shape, dtype)
    size = len(header) + numbers.count * dtype.itemsize
    # The first block is read before the answer begins: what fails then is still a problem document.
    pieces = numbers.blocks if numbers.pieces is None else numbers.pieces
    first = next(pieces, None)
    pieces = chain([] if first is None else [first], pieces)
    body = chain([header], (np.ascontiguousarray(piece, dtype).tobytes() for piece in pieces))
    return StreamingResponse(body, media_type=NPY, headers={"Content-Length": str(size)})


def _npy_header(shape: tuple[int, ...], dtype: np.dtype[Any]) -> bytes:
    buffer = io.BytesIO()
    described = {
        "descr": np.lib.format.dtype_to_descr(dtype),
        "fortran_order": False,
        "shape": shape,
    }
    np.lib.format.write_array_header_1_0(buffer, described)
    return buffer.getvalue()


def as_json(array: Array) -> list[Any]:
    """Nested lists; what is not finite is null."""
    if array.dtype.kind not in "fc":
        return list(array.tolist())
    finite = np.isfinite(array)
    if finite.all():
        return list(array.tolist())
    return list(np.where(finite, array.astype(object), np.array(None)).tolist())
