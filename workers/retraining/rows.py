"""Rows of a dataset with other labels in some of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from workers.engine import Batch, Rows


@dataclass(frozen=True)
class Relabelled:
    """An engine's `Rows`. `place` (N,) int64: of each row its place in `labels` (m, …), or -1 for its own label."""

    rows: Rows
    place: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.rows)

    def batches(self, size: int, start: int = 0, stop: int | None = None) -> Iterator[Batch]:
        """The batches of rows [start, stop)."""
        for batch in self.rows.batches(size, start, stop):
            numbers = torch.arange(batch.start, batch.start + len(batch))
            yield self._with_labels(batch, numbers)

    def take(self, indices: Tensor) -> Batch:
        """The rows with these numbers."""
        return self._with_labels(self.rows.take(indices), indices.cpu())

    def _with_labels(self, batch: Batch, numbers: Tensor) -> Batch:
        own, *weights = batch.target_tensors
        places = self.place[numbers]
        new = self.labels[places.clamp(min=0)].to(own.device, own.dtype)
        known = (places < 0).to(own.device).view(-1, *[1] * (own.ndim - 1))
        labels = torch.where(known, own, new)
        targets = (labels, *weights) if weights else labels
        return Batch(batch.inputs, targets, batch.start)
