"""Rows of a dataset that is not held: the engine goes through them while the next are being read.

Rows are read in windows of some batches, one ahead of the engine, by a thread that also takes them to the device; so
memory and device hold three windows whatever the size of the dataset. Batches are cut as `TensorRows` cuts them.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate

import torch
from torch import Tensor

from service.storage.read_ahead import read_ahead
from upweight.schema import Rows as Selection
from workers.datasets.columns import Columns
from workers.datasets.reader import DatasetReader
from workers.engine import BadParameter, Batch

_GAP_BYTES = 256 * 1024  # rows apart are read together with what lies between, up to this


class StreamedRows:
    """Selected rows of a dataset; see the engine's `Rows`. `window_bytes` bounds what is read at once."""

    def __init__(
        self,
        reader: DatasetReader,
        columns: Columns,
        selection: Selection,
        device: torch.device,
        window_bytes: int,
    ) -> None:
        self._reader = reader
        self._columns = columns
        self._parts = [range(part.start, part.stop, part.step) for part in selection.parts]
        self._ends = list(accumulate(map(len, self._parts), initial=0))
        self._device = device
        self._window_bytes = window_bytes

    def __len__(self) -> int:
        return self._ends[-1]

    def batches(self, size: int, start: int = 0, stop: int | None = None) -> Iterator[Batch]:
        """The batches of rows [start, stop), `size` rows each, from windows that are read ahead."""
        if size < 1:
            raise BadParameter("batch_size", size, "must be at least 1")
        end = len(self) if stop is None else min(stop, len(self))
        if start >= end:
            return
        # The first batch alone: often no more than that is wanted.
        yield self._window(start, min(start + size, end))
        start += size
        window_rows = size * max(1, self._window_bytes // max(1, size * self._reader.row_bytes))
        windows = (
            self._window(first, min(first + window_rows, end))
            for first in range(start, end, window_rows)
        )
        ahead = read_ahead(windows, depth=1)
        try:
            for window in ahead:
                for first in range(0, len(window), size):
                    yield window.narrow(first, min(first + size, len(window)))
        finally:
            ahead.close()  # type: ignore[attr-defined]

    def take(self, indices: Tensor) -> Batch:
        """The rows with these numbers."""
        numbers = self._numbers(indices.cpu())
        return self._batch({name: self._gathered(name, numbers) for name in self._names}, 0)

    @property
    def _names(self) -> list[str]:
        return [*self._columns.inputs, *self._columns.targets]

    def _window(self, start: int, stop: int) -> Batch:
        """Rows start to stop of the selection."""
        columns: dict[str, Tensor] = {}
        run = self._run(start, stop)
        if run is not None:
            # In memory of torch's own, which is aligned: products round otherwise where rows lie otherwise.
            columns = {name: self._reader.read(name, *run).clone() for name in self._names}
        else:
            numbers = self._numbers(torch.arange(start, stop))
            columns = {name: self._gathered(name, numbers) for name in self._names}
        return self._batch(columns, start)

    def _run(self, start: int, stop: int) -> tuple[int, int] | None:
        """The rows of the dataset, when they lie one after the other."""
        for begin, part in zip(self._ends, self._parts, strict=False):
            if part.step == 1 and begin <= start and stop <= begin + len(part):
                first = part.start + start - begin
                return first, first + stop - start
        return None

    def _numbers(self, positions: Tensor) -> Tensor:
        """Rows of the dataset at positions of the selection."""
        which = torch.searchsorted(torch.tensor(self._ends), positions, right=True) - 1
        starts = torch.tensor([part.start for part in self._parts])
        steps = torch.tensor([part.step for part in self._parts])
        return starts[which] + (positions - torch.tensor(self._ends)[which]) * steps[which]

    def _gathered(self, name: str, numbers: Tensor) -> Tensor:
        """Rows with these numbers, in this order, read in runs of near ones."""
        wanted, back = torch.unique(numbers, return_inverse=True)
        gap = max(1, _GAP_BYTES // max(1, self._reader.row_bytes))
        limit = max(1, self._window_bytes // max(1, self._reader.row_bytes))
        found = torch.empty(
            (len(wanted), *self._reader.shapes[name]), dtype=self._reader.dtypes[name]
        )
        rows, done = wanted.tolist(), 0
        while done < len(rows):
            last = done
            while (
                last + 1 < len(rows)
                and rows[last + 1] - rows[last] <= gap
                and rows[last + 1] - rows[done] < limit
            ):
                last += 1
            run = self._reader.read(name, rows[done], rows[last] + 1)
            found[done : last + 1] = run[wanted[done : last + 1] - rows[done]]
            done = last + 1
        return found[back]

    def _batch(self, columns: dict[str, Tensor], start: int) -> Batch:
        inputs, targets = (
            tuple(self._columns.arranged(name, columns[name]).to(self._device) for name in names)
            for names in (self._columns.inputs, self._columns.targets)
        )
        return Batch(inputs, targets[0] if len(targets) == 1 else targets or None, start)
