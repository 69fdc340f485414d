"""What a loss is: outputs and targets of a batch in, one number per row out, nothing broadcast."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

from torch import Tensor

from workers.engine.errors import BadParameter, ShapeMismatch
from workers.engine.model.losses.chance import Chance
from workers.engine.model.rows import Targets

Reduction = Literal["mean", "sum"]


class Loss(Protocol):
    """A loss per row; frozen, so that it can be part of a key."""

    @property
    def no_gauss_newton(self) -> str | None:
        """Why there is no Gauss-Newton matrix without negative eigenvalues, or none but 0; None where there is one."""

    @property
    def no_labels(self) -> str | None:
        """Why labels can't be drawn from the model's predictions; None where they can."""

    def __call__(self, outputs: Any, targets: Targets) -> Tensor:
        """(B,) losses of a batch. Raises ShapeMismatch, never broadcasts."""
        ...

    def check(self, outputs: Any, targets: Targets) -> None:
        """Refuse values that `__call__` cannot judge under vmap, such as classes out of range."""
        ...

    def of_drawn_labels(self) -> Loss:
        """The same loss in a form that takes all labels that may be drawn."""
        ...

    def drawn(self, outputs: Any, targets: Tensor, chance: Chance) -> Tensor:
        """Labels from the distribution that the outputs predict, in the place and type of the targets (B, ...)."""
        ...


@dataclass(frozen=True)
class PerRow:
    """Shared by the losses that reduce over a row's outputs or positions."""

    no_gauss_newton: ClassVar[str | None] = None
    no_labels: ClassVar[str | None] = None

    reduction: Reduction = "mean"  # over the positions or outputs of ONE row

    def __post_init__(self) -> None:
        if self.reduction not in ("mean", "sum"):
            raise BadParameter(
                "reduction", self.reduction, "mean or sum, over the positions of one row"
            )

    def check(self, outputs: Any, targets: Targets) -> None:
        """Raises what computing the losses raises, such as ShapeMismatch."""
        self(outputs, targets)  # type: ignore[operator]

    def of_drawn_labels(self) -> Loss:
        return self  # type: ignore[return-value]

    def drawn(self, outputs: Any, targets: Tensor, chance: Chance) -> Tensor:
        raise BadParameter("loss", type(self).__name__, str(self.no_labels))

    def reduced(self, values: Tensor) -> Tensor:
        """(B, ...) to (B,)."""
        flat = values.reshape(values.shape[0], -1)
        return flat.mean(1) if self.reduction == "mean" else flat.sum(1)


def one_tensor(value: Any) -> Tensor:
    """The tensor, out of wrappings of one element. Raises BadParameter for several."""
    while isinstance(value, tuple | list) and len(value) == 1:
        value = value[0]
    if not isinstance(value, Tensor):
        raise BadParameter(
            "outputs or targets", type(value).__name__, "this loss takes exactly one tensor of each"
        )
    return value


def same_shape(outputs: Any, targets: Targets) -> tuple[Tensor, Tensor]:
    """Both as tensors of one shape and dtype. Raises ShapeMismatch."""
    predicted, goal = one_tensor(outputs), one_tensor(targets)
    if predicted.shape != goal.shape:
        raise ShapeMismatch(
            "targets against outputs",
            predicted.shape,
            goal.shape,
            "they are never broadcast; reshape the targets",
        )
    return predicted, goal.to(predicted.dtype)


@dataclass(frozen=True)
class ProgramLoss:
    """The model takes inputs and targets and returns the loss of each row itself."""

    no_gauss_newton: ClassVar[str | None] = (
        "what the program computes last may not be convex in what it computes before; empirical_fisher needs gradients "
        "alone"
    )
    no_labels: ClassVar[str | None] = (
        "the distribution of a program's labels is not known; empirical_fisher has the data's"
    )

    def __call__(self, outputs: Any, targets: Targets) -> Tensor:
        losses = one_tensor(outputs)
        if losses.ndim != 1:
            raise ShapeMismatch(
                "losses that the program returns",
                ("B",),
                losses.shape,
                "one number per row",
            )
        return losses

    def check(self, outputs: Any, targets: Targets) -> None:
        """One loss per row of the first target, where there is one."""
        losses = self(outputs, targets)
        first = targets[0] if isinstance(targets, tuple) else targets
        if first is not None and losses.shape[0] != first.shape[0]:
            raise ShapeMismatch("losses that the program returns", first.shape[:1], losses.shape)

    def of_drawn_labels(self) -> Loss:
        return self

    def drawn(self, outputs: Any, targets: Tensor, chance: Chance) -> Tensor:
        raise BadParameter("loss", type(self).__name__, str(self.no_labels))
