"""Where an array is at the service, and the flows that fetch it: a slice, or all of it into a file."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import upweight.late.numpy as np
from upweight.files.download import FileSink
from upweight.files.npy import NpySink
from upweight.http.flow import Call, Flow, UnexpectedAnswer
from upweight.progress import Bars
from upweight.results.index import index_of

if TYPE_CHECKING:
    from numpy.typing import NDArray


NPY = "application/x-npy"


@dataclass(frozen=True)
class ArraySource:
    """Where an array is, what it is, and which of its axes the service slices, by their query names."""

    path: str
    name: str
    shape: tuple[int, ...]
    dtype: str
    axes: tuple[str, ...] = ()
    query: tuple[tuple[str, str], ...] = ()

    @property
    def size_bytes(self) -> int:
        """Of the numbers."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize

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
        with bars.bar(f"fetching {self.name}", level=logging.DEBUG) as bar:
            sink = NpySink(bar)
            yield Call("GET", self.path, (*self.query, *rows), sink=sink)
        return sink.array()


def _joined(pieces: list[NDArray[Any]], counts: list[int]) -> NDArray[Any]:
    """Pieces in the order of `product`, put together along each axis, the last first."""
    for axis in reversed(range(len(counts))):
        count = counts[axis]
        if count > 1:
            pieces = [
                np.concatenate(pieces[at : at + count], axis) for at in range(0, len(pieces), count)
            ]
    return pieces[0]
