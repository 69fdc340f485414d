"""Training and test data as the engine sees them: numbered rows, handed out in batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from workers.engine.errors import BadParameter, ShapeMismatch

Targets = Tensor | tuple[Tensor, ...] | None


@dataclass(frozen=True)
class Batch:
    """Consecutive rows on the device; every tensor's first axis is the row."""

    inputs: tuple[Tensor, ...]
    targets: Targets
    start: int  # number of the first row

    def __len__(self) -> int:
        return self.inputs[0].shape[0]

    @property
    def target_tensors(self) -> tuple[Tensor, ...]:
        """The targets as a tuple: empty where there are none."""
        if self.targets is None:
            return ()
        return self.targets if isinstance(self.targets, tuple) else (self.targets,)

    def narrow(self, start: int, stop: int) -> Batch:
        """Rows start to stop of this batch, counted within it; no copy."""
        targets = self.targets
        if isinstance(targets, Tensor):
            targets = targets[start:stop]
        elif targets is not None:
            targets = tuple(each[start:stop] for each in targets)
        return Batch(tuple(each[start:stop] for each in self.inputs), targets, self.start + start)

    def doubled(self) -> Batch:
        """The batch with each of its rows given twice: all rows, and all rows again."""
        targets = tuple(torch.cat([each, each]) for each in self.target_tensors)
        single = isinstance(self.targets, Tensor)
        return Batch(
            tuple(torch.cat([each, each]) for each in self.inputs),
            targets[0] if single else (targets or None),
            self.start,
        )

    def at_least_two(self) -> Batch:
        """The batch; of one row, that row twice: a model that squeezes its output would lose the row's axis."""
        return self.doubled() if len(self) == 1 else self


class Rows(Protocol):
    """Data the engine can go through any number of times, always in the same order.

    An implementation may load rows as they are asked for; it hands them out on the device.
    """

    def __len__(self) -> int: ...

    def batches(self, size: int, start: int = 0, stop: int | None = None) -> Iterator[Batch]:
        """Rows start to stop in batches of `size`, the last one shorter where it must be."""
        ...

    def take(self, indices: Tensor) -> Batch:
        """The rows with these numbers (int64), in this order; `start` of the batch is 0."""
        ...


@dataclass(frozen=True)
class ChosenRows:
    """The rows with these numbers (k,), in this order, as rows of their own."""

    rows: Rows
    indices: Tensor

    def __len__(self) -> int:
        return len(self.indices)

    def batches(self, size: int, start: int = 0, stop: int | None = None) -> Iterator[Batch]:
        """The batches of rows [start, stop)."""
        end = len(self) if stop is None else min(stop, len(self))
        for first in range(start, end, size):
            batch = self.rows.take(self.indices[first : min(first + size, end)])
            yield replace(batch, start=first)

    def take(self, indices: Tensor) -> Batch:
        """The rows with these numbers."""
        return self.rows.take(self.indices[indices])


class TensorRows:
    """Rows that lie in memory.

    `inputs` and `targets` are a tensor or several with one length; `device` moves them once.
    """

    def __init__(
        self,
        inputs: Tensor | Sequence[Tensor],
        targets: Tensor | Sequence[Tensor] | None = None,
        *,
        device: torch.device | str | None = None,
    ) -> None:
        given = (inputs,) if isinstance(inputs, Tensor) else tuple(inputs)
        if not given:
            raise BadParameter("inputs", inputs, "at least one input tensor is needed")
        self._inputs = tuple(each.detach().to(device) for each in given)
        self._targets = _moved(targets, device)
        length = len(self)
        for name, each in self._tensors():
            if each.ndim == 0 or each.shape[0] != length:
                raise ShapeMismatch(
                    f"{name}, whose first axis is the row", (length,), each.shape[:1]
                )

    def _tensors(self) -> Iterator[tuple[str, Tensor]]:
        for position, each in enumerate(self._inputs):
            yield f"input {position}", each
        for position, each in enumerate(self._whole().target_tensors):
            yield f"target {position}", each

    def _whole(self) -> Batch:
        return Batch(self._inputs, self._targets, 0)

    def __len__(self) -> int:
        return self._inputs[0].shape[0] if self._inputs[0].ndim else 0

    def batches(self, size: int, start: int = 0, stop: int | None = None) -> Iterator[Batch]:
        """Rows start to stop in batches of `size`, views of the tensors. Raises BadParameter for a size below 1."""
        if size < 1:
            raise BadParameter("batch_size", size, "must be at least 1")
        end = len(self) if stop is None else min(stop, len(self))
        whole = self._whole()
        for first in range(start, end, size):
            yield whole.narrow(first, min(first + size, end))

    def take(self, indices: Tensor) -> Batch:
        """Copies of the rows with these numbers, in this order; `start` of the batch is 0."""
        targets = self._targets
        if isinstance(targets, Tensor):
            targets = _taken(targets, indices)
        elif targets is not None:
            targets = tuple(_taken(each, indices) for each in targets)
        return Batch(tuple(_taken(each, indices) for each in self._inputs), targets, 0)


def _taken(values: Tensor, indices: Tensor) -> Tensor:
    return values.index_select(0, indices.to(values.device))  # several times as fast as by []


def _moved(targets: Tensor | Sequence[Tensor] | None, device: torch.device | str | None) -> Targets:
    if targets is None:
        return None
    if isinstance(targets, Tensor):
        return targets.detach().to(device)
    return tuple(each.detach().to(device) for each in targets)
