"""Vectors of p numbers, as jobs store them, and as blobs and datasets hold them."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from service.storage.cuts import Cut
from service.storage.layout import ResultPaths, blob_path
from service.storage.objects import Objects
from service.storage.row_blocks import RowBlocks, layers
from service.storage.tensors import BadTensors, TensorEntry, read_header
from upweight.errors import InvalidRequest
from upweight.schema import DatasetRecord, ResultSummary

FACTORS, GRADIENTS, PRODUCTS = "factors", "gradients", "products"
VECTORS = (FACTORS, GRADIENTS, PRODUCTS)  # what a job stores of them, one of these


@dataclass(frozen=True)
class StoredVectors:
    """Those of one job: (vectors, p), of each λ where there are several."""

    folder: str
    name: str
    cut: Cut
    size: int  # p
    dampings: int | None  # how many; None: no axis λ

    @classmethod
    def of(cls, namespace: str, id: str, result: ResultSummary | None) -> StoredVectors | None:
        """None where it stores none, or in a layout of before."""
        if result is None or result.layout is None or not result.factor_shape:
            return None
        name = next((each for each in VECTORS if each in result.stored), None)
        if name is None:
            return None
        total, size = result.factor_shape[-2:]
        return cls(
            result.layout.factors or getattr(ResultPaths(namespace, id), name),
            name,
            Cut(total, result.layout.factor_rows or max(1, total)),
            size,
            None if result.dampings is None else len(result.dampings),
        )

    def blocks(self, objects: Objects) -> list[RowBlocks]:
        """A tensor for each λ."""
        names = layers(self.name, self.dampings)
        return [RowBlocks(objects, self.folder, self.cut, name) for name in names]


def only_tensor(objects: Objects, namespace: str, digest: str) -> TensorEntry:
    """Of a blob. Raises BadTensors, FileNotFoundError."""
    entries = read_header(objects, blob_path(namespace, digest))
    if len(entries) != 1:
        raise BadTensors(f"the blob has {len(entries)} tensors; give one, (vectors, parameters)")
    (entry,) = entries.values()
    if entry.dtype.kind != "f":
        raise BadTensors(f"the tensor is {entry.dtype}; vectors are floating-point numbers")
    return entry


def vector_column(dataset: DatasetRecord, size: int | None, pointer: str) -> str:
    """The input that has a vector a row, of so many numbers. Raises InvalidRequest."""
    columns = [each for each in dataset.columns if each.name in dataset.inputs]
    shapes = ", ".join(f"{each.name} {each.dtype} {list(each.shape)}" for each in columns)
    right = len(columns) == 1 and columns[0].dtype.startswith(("float", "bfloat"))
    if not right or size not in (None, prod(each or 0 for each in columns[0].shape)):
        words = f"dataset {dataset.name!r} has the inputs {shapes}; one is wanted, of {size}"
        raise InvalidRequest.field(pointer, f"{words} floating-point numbers a row", dataset.id)
    return columns[0].name
