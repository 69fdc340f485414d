"""What of a test row is explained in place of its loss: a logit, a margin, the log-probability of a span; (B,) numbers.

A measurement is a loss to the engine: it is differentiated in the same way. Only the test side takes it; the curvature
and the training rows keep the model's loss.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from workers.engine.errors import BadParameter, ShapeMismatch
from workers.engine.model.losses.classification import (
    BinaryCrossEntropy,
    ClassLoss,
    CrossEntropy,
    one_hot,
)
from workers.engine.model.losses.per_row import Loss, PerRow, one_tensor, same_shape
from workers.engine.model.rows import Batch, Rows, Targets

_CHECKED_AT_ONCE = 1024  # rows
Which = int | Literal["label", "predicted"]


def make_measurement(loss: Loss, name: str, which: Which = "label") -> Loss:
    """The measurement of that name, of a model with this loss. Raises BadParameter for a loss without classes."""
    if name == "loss":
        return loss
    if name not in ("logit", "margin", "span"):
        raise BadParameter("measurement", name, "there are loss, logit, margin and span")
    if name == "span" and isinstance(loss, ClassLoss):
        return SpanOfTargets(loss=loss)
    if name == "span":
        raise BadParameter(
            "measurement",
            name,
            "the model's loss has no labels at positions; take 'loss' or 'logit'",
        )
    if isinstance(loss, ClassLoss):
        kind: Any = Logit if name == "logit" else Margin
    elif isinstance(loss, BinaryCrossEntropy):
        kind = BinaryLogit
    else:
        raise BadParameter(
            "measurement",
            name,
            "the model's loss has no classes; take 'loss', or the gradient of your own as a right-hand side of ihvp",
        )
    found: Loss = kind(loss=loss, which="label" if name == "margin" else which)
    return found


@dataclass(frozen=True)
class OfClasses(PerRow):
    """Shared by the measurements of a row's class: its positions are reduced as those of the loss."""

    loss: Any = None  # of the model, which knows what is ignored
    which: Which = "label"


@dataclass(frozen=True)
class Logit(OfClasses):
    """The output z_k of a class: a number of one, the row's label, or the class that is predicted, held fixed.

    Of a row with positions the mean (or sum) over those that the loss does not ignore.
    """

    def __call__(self, outputs: Any, targets: Targets) -> Tensor:
        scores, kept, chosen = self._chosen(outputs, targets)
        return self._reduced(torch.where(chosen, scores, torch.zeros_like(scores)).sum(-1), kept)

    def _chosen(self, outputs: Any, targets: Targets) -> tuple[Tensor, Tensor, Tensor]:
        """The scores (B, ..., C), the positions that count, and where the class is."""
        loss: ClassLoss = self.loss
        scores = loss.classes_last(outputs)
        goal = one_tensor(targets)
        soft = goal.is_floating_point() and goal.ndim == scores.ndim
        if soft and self.which == "label":
            raise BadParameter(
                "measurement",
                "label",
                "the targets are probabilities, so that no class is a row's label; name a class, or 'predicted'",
            )
        if soft:
            kept = torch.ones(scores.shape[:-1], dtype=torch.bool, device=scores.device)
            classes = torch.zeros(scores.shape[:-1], dtype=torch.long, device=scores.device)
        else:
            classes = loss.class_targets(scores, targets)
            kept = classes != loss.ignore_index
        if self.which == "predicted":
            classes = scores.detach().argmax(-1)
        elif self.which != "label":
            if not 0 <= self.which < scores.shape[-1]:
                raise BadParameter(
                    "class", self.which, f"classes go from 0 to {scores.shape[-1] - 1}"
                )
            classes = torch.full_like(classes, self.which)
        chosen = one_hot(torch.where(kept, classes, torch.zeros_like(classes)), scores)
        return scores, kept, chosen

    def _reduced(self, values: Tensor, kept: Tensor) -> Tensor:
        found: Tensor = self.loss.reduce(values, kept)
        return found


@dataclass(frozen=True)
class Margin(Logit):
    """z_y − log Σ_{k≠y} exp z_k: the log-odds of the row's label, log p_y / (1 − p_y)."""

    def __call__(self, outputs: Any, targets: Targets) -> Tensor:
        scores, kept, chosen = self._chosen(outputs, targets)
        if scores.shape[-1] < 2:
            raise ShapeMismatch("outputs of a margin", ("B", "C > 1"), scores.shape)
        own = torch.where(chosen, scores, torch.zeros_like(scores)).sum(-1)
        others = scores.masked_fill(chosen, -torch.inf).logsumexp(-1)
        return self._reduced(own - others, kept)


@dataclass(frozen=True)
class SpanOfTargets(PerRow):
    """Σ w_t log p of each position's label: targets are the classes (B, T) and the weights w (B, T) of `SpannedRows`.

    It is the model's own probability: no smoothing, no weights of classes, no mean over positions.
    """

    loss: Any = None

    def __call__(self, outputs: Any, targets: Targets) -> Tensor:
        loss: ClassLoss = self.loss
        assert isinstance(targets, tuple)
        classes, weights = targets
        plain = replace(loss, weight=None, reduction="sum")
        if isinstance(plain, CrossEntropy):
            plain = replace(plain, label_smoothing=0.0)
        losses, _ = plain.terms(outputs, classes)
        return -torch.where(weights != 0, losses * weights, 0.0).flatten(1).sum(1)


@dataclass(frozen=True)
class SpannedRows:
    """Rows whose targets are the classes and a weight for each position: 1 in a span, −1 in the one taken off.

    `bounds` (n, spans, 2), int64: of each row its spans' first positions and those after the last.
    """

    rows: Rows
    bounds: Tensor

    def __len__(self) -> int:
        return len(self.rows)

    def batches(self, size: int, start: int = 0, stop: int | None = None) -> Iterator[Batch]:
        """The batches of rows [start, stop)."""
        for batch in self.rows.batches(size, start, stop):
            yield self._weighted(batch, self.bounds[batch.start : batch.start + len(batch)])

    def take(self, indices: Tensor) -> Batch:
        """The rows with these numbers."""
        return self._weighted(self.rows.take(indices), self.bounds[indices.cpu()])

    def _weighted(self, batch: Batch, bounds: Tensor) -> Batch:
        classes = one_tensor(batch.targets)
        weights = torch.zeros(classes.shape)
        place = torch.arange(classes.shape[1])
        for sign, span in zip((1.0, -1.0), bounds.unbind(1), strict=False):
            start, end = span.unsqueeze(2).unbind(1)  # (B, 1) each
            weights += sign * ((place >= start) & (place < end))
        return replace(batch, targets=(classes, weights.to(classes.device)))


def refuse_outside(loss: Loss, rows: Rows, bounds: Tensor, numbers: Sequence[int]) -> None:
    """Raises BadParameter for a span that is not within the positions of its row that have a label.

    `numbers`: what the rows are called.
    """
    assert isinstance(loss, ClassLoss)
    for batch in rows.batches(_CHECKED_AT_ONCE):
        classes = one_tensor(batch.targets).cpu()
        if classes.ndim != 2 or classes.is_floating_point():
            raise BadParameter(
                "measurement", "span", "a row has no label for each of its positions; take 'loss'"
            )
        for place, (row, of_row) in enumerate(zip(classes, bounds[batch.start :], strict=False)):
            for start, end in of_row.tolist():
                number, width = numbers[batch.start + place], len(row)
                if not 0 <= start < end <= width:
                    raise BadParameter(
                        "measurement",
                        f"{start}:{end}",
                        f"row {number} has the positions 0 to {width - 1}; a span is start < end <= {width}",
                    )
                ignored = (row[start:end] == loss.ignore_index).nonzero()
                if len(ignored):
                    raise BadParameter(
                        "measurement",
                        f"{start}:{end}",
                        f"position {start + int(ignored[0])} of row {number} has no label (it pads, or is ignored), so "
                        "that it has no probability; end the span before it",
                    )


@dataclass(frozen=True)
class BinaryLogit(OfClasses):
    """The log-odds of a class, of a model with one logit a row: z for class 1, −z for class 0. The label's is the
    margin. With several logits a row, each is a class of its own: logit k, and no label or margin."""

    def __call__(self, outputs: Any, targets: Targets) -> Tensor:
        logits, goal = same_shape(outputs, targets)
        flat, goal = logits.reshape(len(logits), -1), goal.reshape(len(logits), -1)
        width = flat.shape[1]
        if width > 1:
            if isinstance(self.which, str):
                raise BadParameter(
                    "measurement",
                    self.which,
                    f"the model gives {width} logits a row, each with a label of its own; name one: "
                    '{"name": "logit", "class": k}',
                )
            if not 0 <= self.which < width:
                raise BadParameter("class", self.which, f"logits go from 0 to {width - 1}")
            return flat[:, self.which]
        logit = flat[:, 0]
        if self.which == "label":
            return torch.where(goal[:, 0] >= 0.5, logit, -logit)
        if self.which == "predicted":
            return torch.where(logit.detach() >= 0, logit, -logit)
        if self.which not in (0, 1):
            raise BadParameter("class", self.which, "one logit a row has the classes 0 and 1")
        return logit if self.which else -logit
