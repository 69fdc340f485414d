"""The formats: each writes arrays that lie on disk as .npy into one file, without having them in memory."""

from __future__ import annotations

import csv
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from upweight.extras import needed
from upweight.safetensors_file import SafetensorsFile, tensor_of
from upweight.saving.table import Labelled, arrow_schema, blocks


def npz(path: Path, members: Mapping[str, Path]) -> None:
    """All arrays, not compressed: numbers of this kind hardly shrink."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for name, member in members.items():
            archive.write(member, f"{name}.npy")


def safetensors(path: Path, members: Mapping[str, Path]) -> None:
    """All arrays under their names."""
    tensors = {name: tensor_of(name, mapped(member)) for name, member in members.items()}
    with path.open("wb") as file:
        for chunk in SafetensorsFile(tensors).chunks():
            file.write(chunk)


def csv_table(path: Path, array: NDArray[Any], labelled: Labelled) -> None:
    """A header, then a line a number, written so that reading it gives the same number."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(labelled.names(array.ndim))
        for block in blocks(array, labelled):
            # str of a numpy number is its shortest form that reads back as it was
            columns = [column.astype(str).tolist() for column in block.values()]
            writer.writerows(zip(*columns, strict=True))


def parquet_table(path: Path, array: NDArray[Any], labelled: Labelled) -> None:
    """A row group a block."""
    arrow = needed("pyarrow", "saving as .parquet")
    parquet = needed("pyarrow.parquet", "saving as .parquet")
    schema = arrow_schema(arrow, array, labelled)
    with parquet.ParquetWriter(path, schema) as writer:
        for block in blocks(array, labelled):
            writer.write_batch(arrow.record_batch(block, schema=schema))


def mapped(path: Path) -> NDArray[Any]:
    """An array on disk; empty ones can't be mapped."""
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except ValueError:
        return np.load(path, allow_pickle=False)
