"""Results into tables and files: the ending chooses the format. Streamed, and put in place all at once."""

from __future__ import annotations

import csv
import errno
import os
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import upweight.late.numpy as np
from upweight.extras import needed
from upweight.files.safetensors_file import SafetensorsFile, tensor_of
from upweight.http.flow import Flow, Work
from upweight.progress import Bars
from upweight.results.source import ArraySource

if TYPE_CHECKING:
    from numpy.typing import NDArray


BLOCK = 1 << 16  # numbers that are laid out at a time


DAMPING = "damping"  # the axis of λ's


@dataclass(frozen=True)
class Axis:
    """A dimension's name and what its positions stand for, dataset rows or λ's; None: they count themselves."""

    name: str
    rows: NDArray[Any] | None = None

    def labels(self, positions: NDArray[np.int64]) -> NDArray[Any]:
        """The dataset rows, or λ's, at positions of the axis."""
        return positions if self.rows is None else self.rows[positions]


@dataclass(frozen=True)
class Labelled:
    """What an array's axes and its numbers are called. Axes that are not named are one: the features of an input."""

    axes: tuple[Axis, ...]
    value: str = "influence"

    def of(self, array: NDArray[Any]) -> tuple[NDArray[Any], tuple[Axis, ...]]:
        """The array with as many dimensions as there are axes."""
        if array.ndim <= len(self.axes):
            return array, self.axes
        folded = array.reshape(*array.shape[: len(self.axes)], -1)
        return folded, (*self.axes, Axis("feature"))

    def names(self, dimensions: int) -> list[str]:
        """The table's columns."""
        axes = [axis.name for axis in self.axes]
        return [*axes, *(["feature"] if dimensions > len(axes) else []), self.value]


def blocks(array: NDArray[Any], labelled: Labelled) -> Iterator[dict[str, NDArray[Any]]]:
    """The table some rows at a time, so that an array on disk is never in memory whole."""
    folded, axes = labelled.of(array)
    flat = folded.reshape(-1)
    for start in range(0, flat.size, BLOCK):
        values = np.asarray(flat[start : start + BLOCK])
        places = np.unravel_index(np.arange(start, start + len(values)), folded.shape)
        columns = {axis.name: axis.labels(place) for axis, place in zip(axes, places, strict=True)}
        yield {**columns, labelled.value: values}


def frame(array: NDArray[Any], labelled: Labelled) -> Any:
    """A pandas DataFrame of the array's own shape: rows and columns are named by dataset rows.

    One dimension: a column. Two: a matrix. More: a row each (test, train), a column each feature.
    """
    pandas = needed("pandas", "to_pandas()")
    folded, axes = labelled.of(array)
    indices = [
        pandas.Index(axis.labels(np.arange(size)), name=axis.name)
        for axis, size in zip(axes, folded.shape, strict=True)
    ]
    if folded.ndim == 1:
        return pandas.DataFrame({labelled.value: folded}, index=indices[0])
    if folded.ndim == 2:
        return pandas.DataFrame(folded, index=indices[0], columns=indices[1])
    pairs = pandas.MultiIndex.from_product(indices[:-1])
    return pandas.DataFrame(folded.reshape(len(pairs), -1), index=pairs, columns=indices[-1])


def arrow_table(array: NDArray[Any], labelled: Labelled) -> Any:
    """A pyarrow Table: a row a number."""
    arrow = needed("pyarrow", "to_arrow()")
    schema = arrow_schema(arrow, array, labelled)
    batches = [arrow.record_batch(block, schema=schema) for block in blocks(array, labelled)]
    return arrow.Table.from_batches(batches, schema=schema)


def arrow_schema(arrow: Any, array: NDArray[Any], labelled: Labelled) -> Any:
    """The table's columns with their types."""
    *axes, value = labelled.names(array.ndim)
    kinds = [np.dtype(np.int64) if axis.rows is None else axis.rows.dtype for axis in labelled.axes]
    kinds += [np.dtype(np.int64)] * (len(axes) - len(kinds))  # the features
    fields = [
        (name, arrow.string() if kind.kind == "U" else arrow.from_numpy_dtype(kind))
        for name, kind in zip(axes, kinds, strict=True)
    ]
    return arrow.schema([*fields, (value, arrow.from_numpy_dtype(array.dtype))])


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


def wide_table(path: Path, array: NDArray[Any], labelled: Labelled) -> None:
    """The matrix as it is: a line a test row, a column a training row, or a feature, under its id or number."""
    folded, axes = labelled.of(array)
    *outer, last = axes
    heads = [axis.name for axis in outer]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*heads, *last.labels(np.arange(folded.shape[-1]))])
        for place in np.ndindex(folded.shape[:-1]):
            names = [axis.labels(np.array([at]))[0] for axis, at in zip(outer, place, strict=True)]
            writer.writerow([*names, *np.asarray(folded[place]).astype(str).tolist()])


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


ALL: Mapping[str, Callable[[Path, Mapping[str, Path]], None]] = {
    ".npz": npz,
    ".safetensors": safetensors,
}
TABLES: Mapping[str, Callable[[Path, NDArray[Any], Labelled], None]] = {
    ".csv": csv_table,
    ".parquet": parquet_table,
}
FORMATS = (".npy", *ALL, *TABLES)


def saved_as(
    path: str | os.PathLike[str],
    main: str,
    sources: Mapping[str, ArraySource],
    labelled: Labelled,
    bars: Bars,
    wide: bool = False,
) -> Flow[Path]:
    """`.npy`: the main array; `.npz`, `.safetensors`: all; `.csv`, `.parquet`: the main one, a row a number.

    `wide`: `.csv` as a matrix.
    """
    target = Path(path)
    refuse_path(target)
    if wide and target.suffix != ".csv":
        raise ValueError(f"wide=True is for .csv; {target.name!r} is none")
    try:
        return (yield from _saved(target, main, sources, labelled, bars, wide))
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        chosen = sources.values() if target.suffix in ALL else [sources[main]]
        times = 1 if target.suffix == ".npy" else 2  # the arrays, and what is made of them
        size = times * sum(each.size_bytes for each in chosen)
        words = f"no room for it: some {size:,} bytes are needed there while it is written"
        raise OSError(error.errno, words, str(target)) from error


def _saved(
    target: Path,
    main: str,
    sources: Mapping[str, ArraySource],
    labelled: Labelled,
    bars: Bars,
    wide: bool,
) -> Flow[Path]:
    if target.suffix == ".npy":
        return (yield from sources[main].saved(target, bars))
    chosen = sources if target.suffix in ALL else {main: sources[main]}
    with tempfile.TemporaryDirectory(prefix=".upweight-", dir=target.parent) as folder:
        members = {name: Path(folder) / f"{name}.npy" for name in chosen}
        for name, source in chosen.items():
            yield from source.saved(members[name], bars)
        several = next((axis.rows for axis in labelled.axes if axis.name == DAMPING), None)
        if several is not None and target.suffix in ALL:
            members["dampings"] = Path(folder) / "dampings.npy"
            np.save(members["dampings"], several)
        whole = Path(folder) / f"whole{target.suffix}"
        yield Work(lambda: _write(whole, members, main, labelled, wide))
        whole.replace(target)
    return target


def refuse_path(target: Path) -> None:
    """What can't be written is said before gigabytes are fetched for it."""
    if target.suffix not in FORMATS:
        *most, last = FORMATS
        raise ValueError(
            f"results are saved as {', '.join(most)} or {last}; {target.name!r} is none of these"
        )
    if not target.parent.is_dir():
        raise FileNotFoundError(
            errno.ENOENT, "there is no such folder; make it first", str(target.parent)
        )
    if target.is_dir():
        raise IsADirectoryError(errno.EISDIR, "is a folder; give a file's name", str(target))
    if target.suffix == ".parquet":
        needed("pyarrow", "saving as .parquet")


def _write(
    whole: Path, members: Mapping[str, Path], main: str, labelled: Labelled, wide: bool
) -> None:
    if whole.suffix in ALL:
        ALL[whole.suffix](whole, members)
    elif wide:
        wide_table(whole, mapped(members[main]), labelled)
    else:
        TABLES[whole.suffix](whole, mapped(members[main]), labelled)
