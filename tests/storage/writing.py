"""Writes results as the workers do, from arrays that a test has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from service.storage.arrays import NewMatrix
from service.storage.cuts import Cut
from service.storage.objects import Objects
from service.storage.row_blocks import block_path
from service.storage.tensors import write_tensors

Array = np.ndarray[Any, Any]


def write_matrix(
    objects: Objects, path: str, values: Array, chunk: tuple[int, ...], columns: int | None = None
) -> NewMatrix:
    """All chunks of a matrix, or those of its first columns."""
    matrix = NewMatrix(path, values.shape, chunk, str(values.dtype))
    matrix.describe(objects)
    for row, rows in enumerate(Cut(values.shape[0], chunk[0]).blocks()):
        for column, here in enumerate(Cut(columns or values.shape[1], chunk[1]).blocks()):
            matrix.write(objects, row, column, values[rows, here])
    return matrix


def write_rows(objects: Objects, folder: str, arrays: Mapping[str, Array], step: int) -> None:
    """Arrays of one length, some rows an object."""
    total = len(next(iter(arrays.values())))
    for number, rows in enumerate(Cut(total, step).blocks()):
        part = {name: array[rows] for name, array in arrays.items()}
        write_tensors(objects, block_path(folder, number), part)
