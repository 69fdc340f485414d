"""Jobs without an inversion that store vectors of p numbers: gradients of rows, and products with a curvature."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import AliasChoices, Field, StringConstraints, model_validator

from upweight.schema.any_job import CurvatureJob, JobBase, Selection
from upweight.schema.base import Text
from upweight.schema.measurement import LossMeasurement, Measurement

JOB_PATTERN = r"^job_[0-9A-Z]{26}$"
# Vectors of one's own, or those that another job has stored.
Vectors = Annotated[
    str, StringConstraints(pattern=r"^(sha256:[0-9a-f]{64}|job_[0-9A-Z]{26})$", strict=True)
]

# Or the rows of a dataset with one input of so many numbers.
VectorsOrDataset = Annotated[
    str,
    StringConstraints(pattern=r"^(sha256:[0-9a-f]{64}|(job|dst)_[0-9A-Z]{26})$", strict=True),
]


class VectorsJob(JobBase):
    """What they have in common."""

    resumable: ClassVar[bool] = True  # by blocks

    @model_validator(mode="after")
    def _in_a_plain_precision(self) -> Self:
        if self.precision in ("tf32", "bf16"):
            raise ValueError(
                f"'precision' {self.precision} is that of the product of factors with training gradients, and there is "
                "none here; use 'float32' or 'float64'"
            )
        return self


class GradientsJob(VectorsJob):
    """∇m(z) of each row, a row of p numbers each: stored. m is the measurement, by default the loss."""

    kind: Literal["gradients"] = "gradients"
    train: Selection = Field(description="The rows whose gradients are taken, of any dataset.")
    measurement: Measurement = LossMeasurement()
    parameters: Annotated[tuple[Text, ...], Field(min_length=1, max_length=256)] | None = Field(
        None,
        description="Globs over the names of the model's selected parameters: these alone are stored, in the model's "
        "order. Null: all of them, which right-hand sides and factors need.",
    )

    @property
    def method_name(self) -> str:
        """What is differentiated."""
        return self.measurement.name


class HvpJob(VectorsJob, CurvatureJob):
    """(C + λI) v for each vector v: stored. C is the mean over the rows of `train`."""

    kind: Literal["hvp"] = "hvp"
    train: Selection = Field(description="The rows that C is the mean over.")
    vectors: VectorsOrDataset = Field(
        description="A safetensors blob with one tensor of shape (vectors, parameters); a job whose `factors`, "
        "`gradients` or `products` are taken; or the id of a dataset whose one input has a vector a row."
    )
    hessian_regularization: Annotated[float, Field(ge=0.0)] = Field(
        0.0,
        validation_alias=AliasChoices("hessian_regularization", "hessian_perturbation"),
        description="λ, added to C.",
    )

    @property
    def method_name(self) -> str:
        """The matrix."""
        return self.curvature.label

    @property
    def dampings(self) -> tuple[float, ...]:
        """The one λ."""
        return (self.hessian_regularization,)
