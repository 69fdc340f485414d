"""Some consecutive rows of a data set as rows of their own, for a block that is over these alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from torch import Tensor

from workers.engine import Batch, NotFinite, Rows


@dataclass(frozen=True)
class Window:
    """Rows start to stop of `rows`, numbered from 0; see `Rows`."""

    rows: Rows
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    def batches(self, size: int, start: int = 0, stop: int | None = None) -> Iterator[Batch]:
        """See `Rows`."""
        end = len(self) if stop is None else min(stop, len(self))
        for batch in self.rows.batches(size, self.start + start, self.start + end):
            yield replace(batch, start=batch.start - self.start)

    def take(self, indices: Tensor) -> Batch:
        """See `Rows`."""
        return self.rows.take(indices + self.start)


@contextmanager
def numbered_from(start: int) -> Iterator[None]:
    """An error that names a row of a window names the row of the whole instead."""
    try:
        yield
    except NotFinite as error:
        if error.row is None or start == 0:
            raise
        raise NotFinite(error.what, row=error.row + start) from error
