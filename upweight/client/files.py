"""Files of rows: which they are, and what their names say."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import upweight.late.numpy as np
from upweight.errors import InvalidRequest

if TYPE_CHECKING:
    from numpy.typing import NDArray


FORMATS = {".safetensors": "safetensors", ".npz": "npz", ".parquet": "parquet"}


def files_of(data: Any) -> list[Any] | None:
    """The files, in order, if that is what it is: paths, bytes, or open binary files; one or a list of them."""
    one = isinstance(data, str | os.PathLike | bytes | bytearray | memoryview) or hasattr(
        data, "read"
    )
    if one:
        return [data]
    if isinstance(data, list | tuple) and data and all(files_of(item) == [item] for item in data):
        return list(data)
    return None


def format_of(sources: Sequence[Any]) -> str:
    """The one format that the files' names tell."""
    found = {FORMATS.get(_suffix(source)) for source in sources}
    format = found.pop() if len(found) == 1 else None
    if format is None:
        raise InvalidRequest(
            f"the format is not clear from the files' names; give format= (--format in a shell) one of "
            f"{sorted(FORMATS.values())}, or one .npy file a column"
        )
    return format


def npy_columns(sources: Sequence[Any]) -> dict[str, NDArray[Any]] | None:
    """`x.npy` and `y.npy` as columns `x` and `y`, read as they are needed; None unless all are .npy."""
    if not all(_suffix(source) == ".npy" for source in sources):
        return None
    columns: dict[str, NDArray[Any]] = {}
    for source in sources:
        path = Path(source)
        if path.stem in columns:
            raise InvalidRequest(
                f"two files are called {path.name!r}; a column is named by its file"
            )
        try:
            columns[path.stem] = np.load(path, mmap_mode="r", allow_pickle=False)
        except ValueError as exc:
            raise InvalidRequest(
                f"{path.name} is no array of numbers in .npy format: {exc}"
            ) from exc
    return columns


def _suffix(source: Any) -> str:
    named = source if isinstance(source, str | os.PathLike) else getattr(source, "name", "")
    return os.path.splitext(str(named))[1].lower()
