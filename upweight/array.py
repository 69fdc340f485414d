"""Arrays that stay at the service: indexed as numpy's are, fetched slice by slice."""

from __future__ import annotations

import os
import tempfile
import zipfile
from collections.abc import Awaitable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from upweight.download import FileSink
from upweight.exchange import Call, Flow, UnexpectedAnswer, Work
from upweight.index import index_of
from upweight.npy import NpySink
from upweight.progress import Bars
from upweight.transport import AsyncTransport, Transport

NPY = "application/x-npy"
BLOCK = 16 << 20  # bytes that iterating over rows fetches at a time


@dataclass(frozen=True)
class ArraySource:
    """Where an array is, what it is, and which of its axes the service slices, by their query names."""

    path: str
    name: str
    shape: tuple[int, ...]
    dtype: str
    axes: tuple[str, ...] = ()
    query: tuple[tuple[str, str], ...] = ()

    def fetched(self, key: Any, bars: Bars) -> Flow[NDArray[Any]]:
        """What numpy would give for `array[key]`; only that (or a box around scattered rows) is sent."""
        index = index_of(key, self.shape, len(self.axes))
        if index.empty:
            sizes = [len(axis.rows) for axis in index.picked]
            return np.empty((*sizes, *self.shape[len(sizes) :]), self.dtype)[index.local]
        choices = [
            list(axis.selections(size))
            for axis, size in zip(index.picked, self.shape, strict=False)
        ]
        pieces = []
        for chosen in product(*choices):
            rows = tuple((a, s) for a, s in zip(self.axes, chosen, strict=True) if s is not None)
            pieces.append((yield from self._piece(rows, bars)))
        whole = _joined(pieces, [len(choice) for choice in choices])
        wanted = tuple(len(axis.rows) for axis in index.picked)
        if whole.shape != (*wanted, *self.shape[len(wanted) :]):
            raise UnexpectedAnswer(f"asked for {wanted} of {self.name}, got shape {whole.shape}")
        return whole[index.local]

    def saved(self, path: Path, bars: Bars) -> Flow[Path]:
        """The whole array as a .npy file, without passing through memory."""
        with bars.bar(f"downloading {self.name}") as bar:
            sink = FileSink(path, accept=NPY, bar=bar)
            try:
                yield Call("GET", self.path, self.query, sink=sink)
            except BaseException:
                sink.discard()
                raise
        return path

    def _piece(self, rows: tuple[tuple[str, str], ...], bars: Bars) -> Flow[NDArray[Any]]:
        with bars.bar(f"fetching {self.name}") as bar:
            sink = NpySink(bar)
            yield Call("GET", self.path, (*self.query, *rows), sink=sink)
        return sink.array()


def saved_together(path: Path, sources: Mapping[str, ArraySource], bars: Bars) -> Flow[Path]:
    """Several arrays as one .npz, put in place all at once."""
    with tempfile.TemporaryDirectory(prefix=".upweight-", dir=path.parent) as folder:
        for name, source in sources.items():
            yield from source.saved(Path(folder) / f"{name}.npy", bars)
        whole = Path(folder) / "whole.npz"
        yield Work(lambda: _zip(whole, [Path(folder) / f"{name}.npy" for name in sources]))
        whole.replace(path)
    return path


def saved_as(
    path: str | os.PathLike[str], main: str, sources: Mapping[str, ArraySource], bars: Bars
) -> Flow[Path]:
    """`.npy`: the main array alone; `.npz`: all of them."""
    target = Path(path)
    if target.suffix == ".npy":
        return (yield from sources[main].saved(target, bars))
    if target.suffix == ".npz":
        return (yield from saved_together(target, sources, bars))
    raise ValueError(f"results are saved as .npy or .npz; {target.name!r} is neither")


def _zip(path: Path, members: list[Path]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for member in members:
            archive.write(member, member.name)


def _joined(pieces: list[NDArray[Any]], counts: list[int]) -> NDArray[Any]:
    """Pieces in the order of `product`, put together along each axis, the last first."""
    for axis in reversed(range(len(counts))):
        count = counts[axis]
        if count > 1:
            pieces = [
                np.concatenate(pieces[at : at + count], axis) for at in range(0, len(pieces), count)
            ]
    return pieces[0]


class _Described:
    """What is known without fetching."""

    def __init__(self, source: ArraySource, bars: Bars) -> None:
        self._source, self._bars = source, bars
        self.shape = source.shape
        self.dtype = np.dtype(source.dtype)

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return (
            f"<{type(self).__name__} {self._source.name} {self.shape} {self.dtype}, at the service>"
        )


class RemoteArray(_Described):
    """An array at the service. `array[3:5, ::10]` fetches that; `np.asarray(array)` fetches all."""

    def __init__(self, source: ArraySource, link: Transport, bars: Bars) -> None:
        super().__init__(source, bars)
        self._link = link

    def __getitem__(self, key: Any) -> Any:
        return self._link.run(self._source.fetched(key, self._bars))

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        if copy is False:
            raise ValueError("the array is at the service: it can't be had without a copy")
        whole: NDArray[Any] = self[...]
        return whole if dtype is None else whole.astype(dtype, copy=False)

    def __iter__(self) -> Iterator[Any]:
        rows = max(1, BLOCK * len(self) // max(self.nbytes, 1))
        for start in range(0, len(self), rows):
            yield from self[start : start + rows]

    def numpy(self) -> NDArray[Any]:
        """All of it, in memory."""
        return self.__array__()

    def save(self, path: str | os.PathLike[str]) -> Path:
        """All of it as a .npy file, streamed."""
        return self._link.run(self._source.saved(Path(path), self._bars))


class AsyncRemoteArray(_Described):
    """An array at the service: `await array[3:5, ::10]`, `await array.numpy()`."""

    def __init__(self, source: ArraySource, link: AsyncTransport, bars: Bars) -> None:
        super().__init__(source, bars)
        self._link = link

    def __getitem__(self, key: Any) -> Awaitable[Any]:
        return self._link.run(self._source.fetched(key, self._bars))

    async def numpy(self) -> NDArray[Any]:
        """All of it, in memory."""
        whole: NDArray[Any] = await self[...]
        return whole

    async def save(self, path: str | os.PathLike[str]) -> Path:
        """All of it as a .npy file, streamed."""
        return await self._link.run(self._source.saved(Path(path), self._bars))
