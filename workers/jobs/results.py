"""What a job leaves behind, object by object, each written once; the manifest last."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from service.storage.arrays import NewMatrix
from service.storage.layout import ResultPaths
from service.storage.objects import ObjectMeta, Objects
from service.storage.tensors import write_tensors
from upweight import __version__
from upweight.errors import ComputationFailed
from workers.fits.store import Array, as_array


def versions() -> dict[str, str]:
    """What the numbers came from."""
    return {
        "upweight": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


class ResultWriter:
    """Writes one job's objects and knows the digests of those that it has written."""

    def __init__(self, objects: Objects, paths: ResultPaths) -> None:
        self.objects = objects
        self.paths = paths
        self.digests: dict[str, str] = {}

    def tensors(self, path: str, tensors: Mapping[str, Tensor | Array], note: str = "") -> str:
        """Named tensors as one object; answers its digest."""
        arrays = {name: as_array(each) for name, each in tensors.items()}
        for name, array in arrays.items():
            if array.dtype.kind == "f" and name != "residual_norms":
                refuse_nonfinite(name, array)
        self.digests[path] = write_tensors(self.objects, path, arrays, note)
        return self.digests[path]

    def report(self, content: Mapping[str, Any]) -> None:
        """What a job found that is no array, as JSON. Its result names `report` among what is stored."""
        self._json(self.paths.report, content)

    def chunk(self, matrix: NewMatrix, row: int, column: int, block: Tensor) -> str:
        """A block of the matrix; answers its digest."""
        matrix.describe(self.objects)
        digest = matrix.write(self.objects, row, column, as_array(block))
        self.digests[matrix.chunk_path(row, column)] = digest
        return digest

    def commit(
        self,
        parameters: Sequence[Mapping[str, Any]],
        described: Mapping[str, Any],
        shared: Iterable[ObjectMeta] = (),
    ) -> int:
        """Writes `parameters.json` and the manifest; the result exists from then on. Answers its size in bytes.

        `shared` are objects of the result that lie elsewhere: its factors.
        """
        self._json(self.paths.parameters, {"parameters": list(parameters)})
        prefix = f"{self.paths.prefix}/"
        own = [meta for meta in self.objects.walk(self.paths.prefix) if self._is_of_result(meta)]
        files = [
            self._entry(meta, meta.path.removeprefix(prefix))
            for meta in sorted(own, key=lambda meta: meta.path)
        ]
        files += [
            {**self._entry(meta, f"factors/{meta.path.rpartition('/')[2]}"), "at": meta.path}
            for meta in shared
        ]
        self._json(self.paths.manifest, {**described, "versions": versions(), "files": files})
        return sum(entry["size_bytes"] for entry in files)

    def _is_of_result(self, meta: ObjectMeta) -> bool:
        return meta.path != self.paths.manifest and not meta.path.startswith(f"{self.paths.parts}/")

    def _entry(self, meta: ObjectMeta, name: str) -> dict[str, Any]:
        return {"path": name, "size_bytes": meta.size, "digest": self._digest(meta.path)}

    def _digest(self, path: str) -> str:
        if path not in self.digests:  # of what other workers wrote without a digest in Redis
            self.digests[path] = self.objects.digest(path)
        return self.digests[path]

    def _json(self, path: str, content: Mapping[str, Any]) -> None:
        data = json.dumps(content, indent=1, sort_keys=True).encode()
        self.digests[path] = self.objects.put_first(path, data)


def refuse_nonfinite(name: str, array: Array) -> None:
    """Raises ComputationFailed: no NaN is ever stored as a result."""
    if not np.isfinite(array).all():
        raise ComputationFailed(
            f"{name} came out with NaN or infinity; raise hessian_regularization or use float64"
        )
