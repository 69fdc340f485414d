"""What the engine makes of one block of a job, on a window of its rows, and what that costs."""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from workers.engine import Batch, NotFinite, Rows
from workers.fits.store import Tensors


@dataclass(frozen=True)
class Solved:
    """One block of right-hand sides with L λ's: `x` (L, k, p), what was found out about each of them, and about H."""

    x: Tensor
    of_rows: Tensors  # (L, k, …) each
    of_fit: Tensors
    summaries: list[dict[str, Any]]  # one a λ


@dataclass(frozen=True)
class Scores:
    """Influences of one block of training rows on one of test rows; each part only if it is kept."""

    matrix: Tensor | None = None  # (L, m, n, …)
    parts: Tensor | None = None  # (L, m, n, parts…) that add up to it
    top: Tensors = field(default_factory=dict)  # (L m, k) each
    mean_sums: Tensor | None = None  # (L, n) float64, over the test rows
    sample: Tensor | None = None  # (L, m', n', e), where λ's are compared
    cells: Tensor | None = (
        None  # (L, rows, columns, …) float64: sums over groups, in the place of all but the sample
    )


@dataclass(frozen=True)
class SelfInfluences:
    """(L, n) of one block of training rows, and what solving for them found out."""

    values: Tensor
    of_fit: Tensors
    summaries: list[dict[str, Any]]  # one a λ


@dataclass(frozen=True)
class IndexBlock:
    """The numbers of one block of training rows: float16 or int8 (n, width), times a factor (n,) for each row."""

    numbers: Tensor
    factors: Tensor


@dataclass
class Cost:
    """What the engine did."""

    passes: float = 0.0
    gradient_rows: int = 0  # training rows whose gradients were made, however many factors met them
    seconds: float = 0.0
    peak_memory_bytes: int = 0


@dataclass(frozen=True)
class Window:
    """Rows start to stop of `rows` as rows of their own, numbered from 0: an engine's `Rows`."""

    rows: Rows
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    def batches(self, size: int, start: int = 0, stop: int | None = None) -> Iterator[Batch]:
        """The batches of rows [start, stop)."""
        end = len(self) if stop is None else min(stop, len(self))
        for batch in self.rows.batches(size, self.start + start, self.start + end):
            yield replace(batch, start=batch.start - self.start)

    def take(self, indices: Tensor) -> Batch:
        """The rows with these numbers."""
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


def peak_memory(device: torch.device) -> int:
    """The most bytes so far: of the device, or of the process where it computes on the CPU."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
