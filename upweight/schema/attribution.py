"""What jobs with an inversion have in common: the rows of H, the inversion, λ, and how they are cut into blocks."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Self

from pydantic import AliasChoices, Field, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError, ValidationError

from upweight.schema.any_job import CurvatureJob, Selection
from upweight.schema.base import PositiveInt, Request
from upweight.schema.damping import Damping, entries, numbers
from upweight.schema.inversion import Inversion
from upweight.schema.method import InversionMethod


class Blocks(Request):
    """How a job is cut into blocks; null leaves it to the service.

    The cut decides the last bits of the numbers; who computes the blocks, and when, never does.
    """

    test_rows: PositiveInt | None = Field(None, description="Test rows of a block of the matrix.")
    train_rows: PositiveInt | None = Field(
        None, description="Training rows of a block of the matrix, or of self-influences."
    )
    rhs_rows: PositiveInt | None = Field(
        None, description="Right-hand sides that are solved for together."
    )
    hessian_rows: PositiveInt | None = Field(
        None, description="Rows of one partial sum of the curvature, for `direct`."
    )
    spread: bool | None = Field(
        None,
        description="Whether the blocks are spread over all workers; false: one does them all, in order.",
    )


class AttributionJob(CurvatureJob):
    """What jobs with an inversion have, and what is true of the kind: a plan is made from that."""

    # Whose rows' losses and predictions are stored beside the result.
    predicts: ClassVar[tuple[Literal["test", "train"], ...]] = ("test",)
    # Fields that solutions do not depend on, or only by what the record and the plan have of them. All others are part
    # of the name of stored solutions: a new field that is forgotten here costs a solve, never a wrong number.
    beside_solutions: ClassVar[frozenset[str]] = frozenset(
        {
            *(
                "kind",
                "model",
                "hessian_on",
                "curvature",
                "precision",
                "batch_size",
                "columns",
                "blocks",
            ),
            *("priority", "timeout_s", "reuse", "webhook", "labels", "name", "note"),
        }
    )

    hessian_on: Selection | None = Field(
        None, description="Rows that the Hessian is over; null means all rows of `train`'s dataset."
    )
    inversion: Inversion
    hessian_regularization: Damping = Field(
        0.0,
        validation_alias=AliasChoices("hessian_regularization", "hessian_perturbation"),
        description='λ in (H + λI)⁻¹: a number; `{"relative": c}`, c times the mean eigenvalue of H; `auto`, '
        "which takes the steps of the model's recipe where that is one of `sgd`, and else measures H; or "
        '`{"auto": {"learning_rate": …, "momentum": …, "steps": …}}` for that of a training; or a list of up to 16 '
        "numbers and parts, with which all arrays have an axis λ. `hessian_perturbation` means the same.",
        examples=[0.05, "auto", {"relative": 0.1}, [1e-3, 1e-2, 1e-1]],
    )
    blocks: Blocks = Blocks()

    @property
    def method_name(self) -> str:
        """Of the inversion."""
        return self.inversion.method

    @property
    def scores_rows(self) -> bool:
        """Whether training rows are scored."""
        return False

    @property
    def keeps_factors(self) -> bool:
        """Whether the solutions are part of the result."""
        return True

    @property
    def building(self) -> InversionMethod | None:
        """What of the inversion builds C, (p, p): nothing where C is known in closed form."""
        return None if self.curvature.closed_form else self.inversion.building

    @property
    def dampings(self) -> tuple[float, ...]:
        """The λ's as numbers, once they are. Raises ValueError of one that is to be worked out still."""
        found = tuple(numbers(self.hessian_regularization))
        if len(found) != len(entries(self.hessian_regularization)):
            raise ValueError("λ is not worked out yet")
        return found

    @property
    def has_damping_axis(self) -> bool:
        """Whether the arrays of the result have an axis λ."""
        return isinstance(self.hessian_regularization, list)

    @property
    def damping_count(self) -> int:
        """How many λ's are asked for."""
        return len(entries(self.hessian_regularization))

    @model_validator(mode="after")
    def _low_precision_has_a_use(self) -> Self:
        of_up = getattr(self, "influence_type", None) == "up"
        if self.precision in ("tf32", "bf16") and not of_up:
            raise ValueError(
                f"'precision' {self.precision} is that of the product with training gradients, which only kind "
                "'influences' of influence_type 'up' has; use 'float32' or 'float64'"
            )
        return self

    @model_validator(mode="after")
    def _damping_where_it_divides(self) -> Self:
        divides = self.inversion.needs_damping
        if divides is not None and 0.0 in numbers(self.hessian_regularization):
            words = "'{what}' divides by λ, so it needs hessian_regularization > 0"
            error = PydanticCustomError("needs_damping", words, {"what": divides})
            where = InitErrorDetails(
                type=error, loc=("hessian_regularization",), input=self.hessian_regularization
            )
            raise ValidationError.from_exception_data(type(self).__name__, [where])
        return self


def no_measurement(data: Any) -> Any:
    """What measures nothing of a test row refuses a measurement by name."""
    if isinstance(data, dict) and "measurement" in data:
        kind = data.get("kind")
        words = (
            "kind 'ihvp' solves for right-hand sides of your own; kind 'factors' takes a measurement"
            if kind == "ihvp"
            else "kind 'index' is searched by gradients of the loss; leave the measurement out"
            if kind == "index"
            else "kind 'self_influences' meets each training row with itself, by its loss; leave the measurement "
            "out, or take kind 'influences' with the training rows as 'test'"
        )
        error = PydanticCustomError("no_measurement", "{words}", {"words": words})
        where = InitErrorDetails(type=error, loc=("measurement",), input=data["measurement"])
        raise ValidationError.from_exception_data(str(kind), [where])
    return data
