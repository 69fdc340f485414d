"""Parts of an array, printed or written: by blocks of rows, so that only a block is in memory."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from upweight.cli.shell import Shell

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from upweight import RemoteArray

    Names = Sequence[NDArray[Any] | None]

BLOCK = 1 << 20  # numbers that are fetched at a time
TERMINAL_NUMBERS = 2_000  # more than that nobody reads
JSON_NUMBERS = 1_000_000  # in one document
FILE_NUMBERS = 1 << 31  # beyond this, whole results are streamed


def chosen(text: str | None, size: int) -> Sequence[int]:
    """The positions that a choice names: all without one."""
    if text is None:
        return range(size)
    from upweight.schema import parse_rows

    parts = parse_rows(text, size).parts
    return parts[0] if len(parts) == 1 else [row for part in parts for row in part]


def count(axes: Sequence[Sequence[int]], shape: Sequence[int]) -> int:
    """How many numbers a part has."""
    return math.prod(map(len, axes)) * math.prod(shape[len(axes) :])


def refuse_size(
    axes: Sequence[Sequence[int]], shape: Sequence[int], most: int, way_out: str
) -> None:
    """Raises BadParameter when there are more numbers than that."""
    numbers = count(axes, shape)
    if numbers > most:
        raise typer.BadParameter(f"these are {numbers:,} numbers, more than {most:,}; {way_out}")


def printed(
    shell: Shell, array: RemoteArray, axes: Sequence[Sequence[int]], names: Names = ()
) -> None:
    """Tab-separated with positions at the head and in front, or one JSON document.

    `names`: of each axis what its positions stand for, which comes after them; None where that is themselves.
    """
    if shell.as_json:
        refuse_size(axes, array.shape, JSON_NUMBERS, "write a file: -o part.npy")
        values = array[_index(axes)]
        labels = [None if each is None else each.tolist() for each in names]
        shell.document({"axes": [list(axis) for axis in axes], **({"labels": labels} if labels else {}),
                        "shape": list(values.shape), "values": values.tolist()})  # fmt: skip
        return
    if sys.stdout.isatty():
        refuse_size(
            axes,
            array.shape,
            TERMINAL_NUMBERS,
            "choose fewer rows, pipe it, or write a file: -o part.npy",
        )
    row_names, column_names = (*names, None, None)[:2]
    margin = [""] if row_names is None else ["", ""]
    if len(axes) > 1 and array.ndim == len(axes):
        print(*margin, *axes[1], sep="\t")
        if column_names is not None:
            print(*margin, *column_names, sep="\t")
    done = 0
    for rows, block in _blocks(array, axes):
        for row, values in zip(rows, block, strict=True):
            called = () if row_names is None else (row_names[done],)
            print(row, *called, *values.ravel(), sep="\t")
            done += 1


def written(array: RemoteArray, axes: Sequence[Sequence[int]], path: Path) -> Path:
    """The part as an .npy file, put in place when it is whole."""
    import numpy as np

    if path.suffix != ".npy":
        raise typer.BadParameter(
            f"parts are written as .npy; {path.name!r} is not", param_hint="--output"
        )
    shape = (*map(len, axes), *array.shape[len(axes) :])
    part = path.with_name(f".{path.name}.part")
    try:
        whole = np.lib.format.open_memmap(part, "w+", array.dtype, shape)
        at = 0
        for rows, block in _blocks(array, axes):
            whole[at : at + len(rows)] = block
            at += len(rows)
        whole.flush()
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return path


def _blocks(
    array: RemoteArray, axes: Sequence[Sequence[int]]
) -> Iterator[tuple[Sequence[int], Any]]:
    rows, *others = axes
    step = max(1, BLOCK * len(rows) // max(count(axes, array.shape), 1))
    for start in range(0, len(rows), step):
        some = rows[start : start + step]
        yield some, array[_index([some, *others])]


def _index(axes: Sequence[Sequence[int]]) -> Any:
    """Each axis by itself, as numpy's `ix_` does: lists are made to meet at every crossing."""
    import numpy as np

    if all(isinstance(axis, range) for axis in axes):
        return tuple(
            slice(axis.start, axis.stop, axis.step) for axis in axes if isinstance(axis, range)
        )
    return np.ix_(*(np.asarray(axis, np.intp) for axis in axes))
