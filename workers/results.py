"""What a job leaves behind: the matrix in whole chunks, top-k and means merged as blocks go by, the manifest last."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from service.results.layout import ResultPaths
from service.storage.arrays import create_array
from service.storage.objects import Objects
from service.storage.tensors import write_tensors
from upweight import __version__
from upweight.errors import ComputationFailed

CHUNK_BYTES = 4 * 1024**2
CHUNK_ROWS = 256

Array = np.ndarray[Any, Any]


class ResultWriter:
    """Writes one job's objects. A second attempt writes the same bytes to the same places."""

    def __init__(self, objects: Objects, paths: ResultPaths) -> None:
        self._objects = objects
        self.paths = paths
        self.stored: list[str] = []
        self._digests: dict[str, str] = {}

    def tensors(self, kind: str, path: str, tensors: Mapping[str, Tensor | Array]) -> None:
        """Named tensors as one object."""
        arrays = {name: _as_array(each) for name, each in tensors.items()}
        for name, array in arrays.items():
            if (
                array.dtype.kind == "f"
                and name != "residual_norms"
                and not np.isfinite(array).all()
            ):
                raise ComputationFailed(
                    f"{name} came out with NaN or infinity; raise hessian_regularization or use float64"
                )
        self._digests[path] = write_tensors(self._objects, path, arrays)
        self.stored.append(kind)

    def matrix(self, shape: Sequence[int], dtype: str) -> MatrixWriter:
        """The matrix of influences, to be written by blocks of columns."""
        self.stored.append("matrix")
        return MatrixWriter(self._objects, self.paths.influences, shape, dtype, self._digests)

    def commit(self, parameters: Sequence[Mapping[str, Any]], described: Mapping[str, Any]) -> int:
        """Writes `parameters.json` and the manifest; the result exists from then on. Answers its size in bytes."""
        self._json(self.paths.parameters, {"parameters": list(parameters)})
        metas = sorted(
            (
                meta
                for meta in self._objects.walk(self.paths.prefix)
                if meta.path != self.paths.manifest
            ),
            key=lambda meta: meta.path,
        )
        files = [
            {
                "path": meta.path.removeprefix(self.paths.prefix + "/"),
                "size_bytes": meta.size,
                "digest": self._digest(meta.path),
            }
            for meta in metas
        ]
        versions = {
            "upweight": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        }
        self._json(
            self.paths.manifest,
            {**described, "stored": self.stored, "versions": versions, "files": files},
        )
        return sum(meta.size for meta in metas)

    def _digest(self, path: str) -> str:
        # Only what others wrote for us, Zarr's few lines of metadata, is read back.
        return (
            self._digests.get(path)
            or f"sha256:{hashlib.sha256(self._objects.get(path)).hexdigest()}"
        )

    def _json(self, path: str, content: Mapping[str, Any]) -> None:
        data = json.dumps(content, indent=1, sort_keys=True).encode()
        self._digests[path] = f"sha256:{hashlib.sha256(data).hexdigest()}"
        self._objects.put(path, data)


class MatrixWriter:
    """Takes blocks of columns of any width, in order; writes whole chunks."""

    def __init__(
        self, objects: Objects, path: str, shape: Sequence[int], dtype: str, digests: dict[str, str]
    ) -> None:
        rows, columns, *trailing = shape
        item = np.dtype(dtype).itemsize * prod(trailing)
        self._chunk_rows = max(1, min(rows, CHUNK_ROWS, CHUNK_BYTES // item))
        self._width = max(1, min(columns, CHUNK_BYTES // (self._chunk_rows * item)))
        self._array = create_array(
            objects, path, shape, (self._chunk_rows, self._width, *trailing), dtype
        )
        self._path = path
        self._digests = digests
        self._pending = np.empty((rows, self._width, *trailing), dtype)
        self._filled = 0
        self._written = 0

    def write(self, block: Tensor) -> None:
        """The next (m, b, ...) columns."""
        values = _as_array(block)
        position = 0
        while position < values.shape[1]:
            take = min(self._width - self._filled, values.shape[1] - position)
            self._pending[:, self._filled : self._filled + take] = values[
                :, position : position + take
            ]
            self._filled += take
            position += take
            if self._filled == self._width:
                self._flush()

    def close(self) -> None:
        """Writes what is left: the last, narrower chunk."""
        if self._filled:
            self._flush()

    def _flush(self) -> None:
        number = self._written // self._width
        block = self._pending[:, : self._filled]
        self._array[:, self._written : self._written + self._filled] = block
        for first in range(0, block.shape[0], self._chunk_rows):
            part = block[first : first + self._chunk_rows]
            self._digests[self._chunk_path(first // self._chunk_rows, number)] = self._digest(part)
        self._written += self._filled
        self._filled = 0

    def _chunk_path(self, row: int, column: int) -> str:
        rest = "".join("/0" for _ in self._pending.shape[2:])
        return f"{self._path}/c/{row}/{column}{rest}"

    def _digest(self, part: Array) -> str:
        """Of the chunk as Zarr stores it: full size, NaN beyond the matrix, not compressed."""
        chunk = np.full((self._chunk_rows, self._width, *part.shape[2:]), np.nan, part.dtype)
        chunk[: part.shape[0], : part.shape[1]] = part
        return f"sha256:{hashlib.sha256(chunk.tobytes()).hexdigest()}"


class Ranking:
    """The k largest and k smallest of each row, merged block by block; ties go to the lower column."""

    def __init__(self, k: int) -> None:
        self._k = k
        self._best: dict[str, tuple[Tensor, Tensor]] = {}

    def add(self, start: int, block: Tensor) -> None:
        """Columns [start, start + b) of (m, b)."""
        columns = torch.arange(start, start + block.shape[1], device=block.device).expand(
            block.shape
        )
        for name, largest in (("helpful", True), ("harmful", False)):
            values, numbers = block, columns
            if name in self._best:
                values = torch.cat([self._best[name][0], block], 1)
                numbers = torch.cat([self._best[name][1], columns], 1)
            # Stable, and what was kept comes first: the lower column wins whatever the blocks.
            ordered, order = torch.sort(values, dim=1, descending=largest, stable=True)
            self._best[name] = (
                ordered[:, : self._k].clone(),
                torch.gather(numbers, 1, order[:, : self._k]),
            )

    def tensors(self) -> dict[str, Tensor]:
        """`helpful_values`, `helpful_columns`, `harmful_values`, `harmful_columns`: (m, k) each."""
        named: dict[str, Tensor] = {}
        for name, (values, columns) in self._best.items():
            named[f"{name}_values"], named[f"{name}_columns"] = values, columns
        return named


def _as_array(tensor: Tensor | Array) -> Array:
    if isinstance(tensor, Tensor):
        return np.asarray(tensor.detach().cpu().numpy())
    return tensor
