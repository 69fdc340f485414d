"""From arrays at the service to one file."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from upweight.exchange import Flow, Work
from upweight.extras import needed
from upweight.progress import Bars
from upweight.saving.table import Labelled
from upweight.saving.write import csv_table, mapped, npz, parquet_table, safetensors
from upweight.source import ArraySource

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
) -> Flow[Path]:
    """`.npy`: the main array; `.npz`, `.safetensors`: all; `.csv`, `.parquet`: the main one, a row a number."""
    target = Path(path)
    refuse_path(target)
    if target.suffix == ".npy":
        return (yield from sources[main].saved(target, bars))
    chosen = sources if target.suffix in ALL else {main: sources[main]}
    with tempfile.TemporaryDirectory(prefix=".upweight-", dir=target.parent) as folder:
        members = {name: Path(folder) / f"{name}.npy" for name in chosen}
        for name, source in chosen.items():
            yield from source.saved(members[name], bars)
        whole = Path(folder) / f"whole{target.suffix}"
        yield Work(lambda: _write(whole, members, main, labelled))
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


def _write(whole: Path, members: Mapping[str, Path], main: str, labelled: Labelled) -> None:
    if whole.suffix in ALL:
        ALL[whole.suffix](whole, members)
    else:
        TABLES[whole.suffix](whole, mapped(members[main]), labelled)
