"""A loss whose rows have weights: each row's loss times a number of its own, the last of its targets."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from workers.engine.errors import BadParameter, ShapeMismatch
from workers.engine.model.losses.chance import Chance
from workers.engine.model.losses.classification import ClassLoss
from workers.engine.model.losses.per_row import Loss
from workers.engine.model.rows import Batch, Rows, Targets


@dataclass(frozen=True)
class Weighted:
    """w L of each row: its gradient, and its Hessian in the outputs, are w times those of L.

    The targets are those of L, and then the weights (B,).
    """

    loss: Loss
    no_labels: str | None = (
        "rows have weights, and a drawn label's squared gradient would have the square of its row's; take "
        "gauss_newton, or empirical_fisher"
    )

    @property
    def no_gauss_newton(self) -> str | None:
        """As the loss without weights."""
        return self.loss.no_gauss_newton

    def __call__(self, outputs: Any, targets: Targets) -> Tensor:
        """(B,). Raises what the loss without weights raises."""
        own, weights = _apart(targets)
        losses = self.loss(outputs, own)
        if weights.shape != losses.shape:
            raise ShapeMismatch("row weights", losses.shape, weights.shape, "one number a row")
        return losses * weights.to(losses.dtype)

    def check(self, outputs: Any, targets: Targets) -> None:
        """Raises what the loss without weights raises, and BadParameter for a weight below 0."""
        own, weights = _apart(targets)
        self.loss.check(outputs, own)
        if not bool((weights.isfinite() & (weights >= 0)).all()):
            raise BadParameter("row weight", float(weights.min()), "must be finite, and 0 or more")

    def positions(self, outputs: Any, targets: Targets) -> Tensor:
        """(B, ...): what each position adds to its row's loss, of a loss of classes."""
        assert isinstance(self.loss, ClassLoss)
        own, weights = _apart(targets)
        found = self.loss.positions(outputs, own)
        return found * weights.to(found.dtype).view(-1, *(1,) * (found.ndim - 1))

    def counted(self, outputs: Any, targets: Targets) -> Tensor | None:
        """Of the outputs those of positions that are not ignored; None where all are, or rows have none."""
        own, _ = _apart(targets)
        return self.loss.counted(outputs, own) if isinstance(self.loss, ClassLoss) else None

    def of_drawn_labels(self) -> Loss:
        """There are none."""
        return self

    def drawn(self, outputs: Any, targets: Tensor, chance: Chance) -> Tensor:
        """Raises BadParameter."""
        raise BadParameter("loss", "row_weights", str(self.no_labels))


@dataclass(frozen=True)
class Unweighted:
    """Rows of a weighted loss without their weights: an engine's `Rows`."""

    rows: Rows

    def __len__(self) -> int:
        return len(self.rows)

    def batches(self, size: int, start: int = 0, stop: int | None = None) -> Iterator[Batch]:
        """The batches of rows [start, stop)."""
        for batch in self.rows.batches(size, start, stop):
            yield replace(batch, targets=_apart(batch.targets)[0])

    def take(self, indices: Tensor) -> Batch:
        """The rows with these numbers."""
        batch = self.rows.take(indices)
        return replace(batch, targets=_apart(batch.targets)[0])


def weights_of(rows: Rows, places: Tensor) -> Tensor:
    """(b,): the weights of the rows with these numbers."""
    return _apart(rows.take(places).targets)[1]


def _apart(targets: Targets) -> tuple[Targets, Tensor]:
    if not isinstance(targets, tuple):
        raise BadParameter(
            "row weights", "none", "the targets must be followed by a column of weights"
        )
    *own, weights = targets
    return own[0] if len(own) == 1 else tuple(own), weights
