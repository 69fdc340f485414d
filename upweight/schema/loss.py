"""The loss of a model: what a row's loss is, and the L2 term of the training objective."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field

from upweight.schema.base import Request, Text

Positions = Annotated[
    Literal["mean", "sum"],
    Field(
        description="How the losses of a row's positions become the row's loss (sequence models)."
    ),
]
Reduction = Annotated[
    Literal["mean", "sum"],
    Field(
        description="How the losses of a row's outputs become the row's loss. That of a dataset is always the mean "
        "over its rows."
    ),
]
ClassAxis = Annotated[
    Literal[1, -1],
    Field(
        description="Where the outputs have their classes: 1 for (rows, classes, …), -1 for (rows, positions, classes)."
    ),
]
Weight = Annotated[float, Field(ge=0.0)]


class L2Term(Request):
    """factor/2 · Σ θ² over the parameters that the glob matches."""

    parameters: Text = Field(description="A glob over the names of the selected parameters.")
    factor: Annotated[float, Field(ge=0.0)]


class _Loss(Request):
    """What is true of a loss, whatever its parameters."""

    # Of each output: a class index (an integer), or a value of the output's shape. None where neither is so.
    target: ClassVar[Literal["class", "value"] | None] = None

    l2: Annotated[tuple[L2Term, ...], Field(max_length=64)] = Field(
        (),
        description="An L2 term of the training objective, beside λ: mean over the rows of L, + Σ factor/2 · θ². The "
        "Hessian, and a retraining, have it; no row's loss has it, so that training and test gradients are those of L. "
        "A parameter that several globs match has the sum of their factors.",
        examples=[[{"parameters": "fc.*", "factor": 1e-3}]],
    )

    def described(self) -> dict[str, Any]:
        """As what decides results is named by: without what says nothing, as before there was any."""
        found = self.model_dump(mode="json")
        silent: dict[str, Any] = {"l2": [], "row_weights": None, "output_weights": None}
        return {k: v for k, v in found.items() if k not in silent or v != silent[k]}

    @property
    def weight_column(self) -> str | None:
        """The column with the weights of rows."""
        found: str | None = getattr(self, "row_weights", None)
        return found


class _RowLoss(_Loss):
    """One whose rows may have weights."""

    row_weights: Text | None = Field(
        None,
        description="A target column of the training dataset, beside that of the labels, with a factor of each row's "
        "loss: 0 or more. Gradients of training rows, every curvature and a retraining have it, over the mean of all "
        "rows as without it; test rows are measured without. Kind `fisher` and an index refuse it.",
    )


class CrossEntropy(_RowLoss):
    """Targets: class indices, or probabilities of the outputs' shape. Outputs: logits."""

    target = "class"
    name: Literal["cross_entropy"] = "cross_entropy"
    label_smoothing: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    ignore_index: int | None = None
    class_weights: Annotated[tuple[Weight, ...], Field(min_length=1, max_length=100_000)] | None = (
        None
    )
    positions: Positions = "mean"
    class_axis: ClassAxis = 1


class BceWithLogits(_RowLoss):
    """Targets in [0, 1], of the outputs' shape."""

    target = "value"
    name: Literal["bce_with_logits"] = "bce_with_logits"
    output_weights: (
        Annotated[tuple[Weight, ...], Field(min_length=1, max_length=100_000)] | None
    ) = Field(
        None,
        description="A factor of each output's loss: torch's `weight`, of one number for each output.",
    )
    pos_weight: (
        Weight | Annotated[tuple[Weight, ...], Field(min_length=1, max_length=100_000)] | None
    ) = Field(
        None,
        description="A factor of the part of the loss that a target of 1 has: one for all outputs, or one for each.",
    )
    reduction: Reduction = "mean"


class Mse(_RowLoss):
    """The mean (or sum) over a row's outputs of the squared error."""

    target = "value"
    name: Literal["mse"] = "mse"
    reduction: Reduction = "mean"


class Huber(_RowLoss):
    """Quadratic within `delta`, linear outside."""

    target = "value"
    name: Literal["huber"] = "huber"
    delta: Annotated[float, Field(gt=0.0)] = 1.0
    reduction: Reduction = "mean"


class Nll(_RowLoss):
    """Targets: class indices. Outputs: log-probabilities."""

    target = "class"
    name: Literal["nll"] = "nll"
    ignore_index: int | None = None
    class_weights: Annotated[tuple[Weight, ...], Field(min_length=1, max_length=100_000)] | None = (
        None
    )
    positions: Positions = "mean"
    class_axis: ClassAxis = 1


class PoissonNll(_RowLoss):
    """Targets: counts. Outputs: log-rates, or rates with `log_input: false`."""

    target = "value"
    name: Literal["poisson_nll"] = "poisson_nll"
    log_input: bool = True
    full: bool = False
    reduction: Reduction = "mean"


class GaussianNll(_RowLoss):
    """One output: the mean and the log-variance, concatenated in the last dimension.

    Two, `output: ["mean", "variance"]`: the mean, and the variance itself, which must not be negative and is floored
    at 1e-6, as `torch.nn.GaussianNLLLoss` has it.
    """

    name: Literal["gaussian_nll"] = "gaussian_nll"
    full: bool = False
    reduction: Reduction = "mean"


class ProgramLoss(_Loss):
    """The program takes inputs and targets and returns one loss per row."""

    name: Literal["program"] = "program"


def _loss_by_name(value: Any) -> Any:
    name = value.get("name") if isinstance(value, dict) else value
    if name in ("l1", "mae", "l1_loss"):
        raise ValueError(
            f"{name!r} is not twice differentiable, so it has no Hessian; use 'huber' with a small delta"
        )
    return {"name": value} if isinstance(value, str) else value


Loss = Annotated[
    CrossEntropy | BceWithLogits | Mse | Huber | Nll | PoissonNll | GaussianNll | ProgramLoss,
    Field(discriminator="name"),
    BeforeValidator(_loss_by_name),
]
