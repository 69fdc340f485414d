"""Jobs: what to compute, over what, how, and what to keep; a class a kind, and `JobRequest` for any of them."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import (
    Field,
    ModelWrapValidatorHandler,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticKnownError

from upweight.schema.aggregate import MAXIMUM_SETS, Aggregate, RowSet
from upweight.schema.any_job import Selection
from upweight.schema.attribution import AttributionJob, no_measurement
from upweight.schema.base import Request, Text
from upweight.schema.indexes import IndexJob
from upweight.schema.inversion import Direct
from upweight.schema.measurement import LossMeasurement, Measurement
from upweight.schema.quality import QualityJob
from upweight.schema.retraining import RetrainJob
from upweight.schema.vectors import JOB_PATTERN, GradientsJob, HvpJob, Vectors

# What an influence is stored for, beside the pair of rows: parts that add up to it.
ScoresBy = Literal["row", "layer", "token"]


class Keep(Request):
    """What is stored of the influences."""

    matrix: bool = Field(True, description="The whole matrix.")
    top: Annotated[int, Field(ge=0, le=100_000)] = Field(
        0,
        description="For each test row, this many training rows of the largest and of the smallest influence.",
    )
    mean: bool = Field(
        False, description="For each training row, its mean influence over the test rows."
    )
    factors: bool = Field(False, description="The factors (H + λI)⁻¹ ∇L(z_test).")


class InfluencesJob(AttributionJob):
    """∇m(z_test)ᵀ (H + λI)⁻¹ ∇L(z_train), or with ∇ₓ∇L(z_train) for `perturbation`; m is the measurement, by default
    the loss. Positive means that the training row lowers it: of a loss, that it is helpful."""

    predicts = ("test", "train")
    beside_solutions = AttributionJob.beside_solutions | {
        *("train", "influence_type", "perturb_at", "perturb_input", "factors", "keep"),
        *("aggregate", "groups", "rescale", "scores_by"),
    }
    kind: Literal["influences"] = "influences"
    factors: Annotated[str, Field(pattern=JOB_PATTERN)] | None = Field(
        None,
        description="An earlier job whose factors are used instead of solving again, with its λ, method and rows of "
        "the Hessian; another one of these is refused. Of an `ihvp` job they are the solutions for right-hand sides of "
        "its own, say the gradient of a margin: row i of the result is then that of right-hand side i. Of a "
        "`gradients` job they are the gradients as they are, so that gradients meet gradients, with the identity in "
        "the place of the inverse. With it "
        "`inversion` and `test` may be left out.",
    )
    measurement: Measurement = LossMeasurement()
    test: Selection | None = Field(
        None,
        description="The rows that are influenced. With `factors` it may be left out, and is theirs; of an `ihvp` "
        "job's it must choose as many rows as there are right-hand sides, for their labels alone.",
    )
    influence_type: Literal["up", "perturbation"] = "up"
    perturb_at: Text | None = Field(
        None, description="Perturbation at the output of this inner module instead of at the input."
    )
    perturb_input: Text | None = Field(
        None, description="The input column to perturb; null means the only floating-point one."
    )
    keep: Keep = Keep()
    aggregate: Aggregate | None = Field(
        None,
        description="Adds influences up over groups of rows. The result is a table with a row, or column, a group, in "
        "sorted order of the column's values; `keep` says what is kept of the table. The record's `groups` names them.",
        examples=[{"test": "mean"}, {"test": "y", "train": "source"}],
    )
    groups: Annotated[tuple[RowSet, ...], Field(min_length=1, max_length=MAXIMUM_SETS)] | None = (
        Field(
            None,
            description="Sets of training rows, each to be removed together; they may overlap. The result has a "
            "column a set: the sum of its rows' influences, and, with `rescale`, what removing them does at the "
            "curvature that is left. In the job's record they are row numbers.",
            examples=[["0:10", "10:20"]],
        )
    )
    scores_by: ScoresBy = Field(
        "row",
        description="`layer` also stores the part of each influence that goes through the parameters of each module; "
        "`token`, of a model with a label a position, the part of each position of the training row's loss. The parts "
        "of an influence add up to it, and are read with `by` beside it.",
    )
    rescale: bool = Field(
        True,
        description="Of `groups`: also the Newton step without the set's Gauss-Newton matrix, by 1 − leverage.",
    )

    @property
    def tabulates(self) -> bool:
        """Whether rows are grouped: the matrix is never stored then."""
        return self.aggregate is not None or self.groups is not None

    @property
    def rescales(self) -> bool:
        """Whether groups are met at the curvature without them, too."""
        return self.groups is not None and self.rescale

    @property
    def grouped_sides(self) -> frozenset[Literal["test", "train"]]:
        """The axes of the result that have groups in the place of rows."""
        sides: tuple[Literal["test", "train"], ...] = ("test", "train")
        found = {side for side in sides if self.aggregate and self.aggregate.reduction(side)}
        return frozenset(found | {"train"} if self.groups is not None else found)

    @property
    def scores_rows(self) -> bool:
        """Unless the factors alone are kept."""
        return self.keep.matrix or self.keep.top > 0 or self.keep.mean

    @property
    def keeps_factors(self) -> bool:
        """As `keep` says."""
        return self.keep.factors

    @property
    def keeps_matrix(self) -> bool:
        """As `keep` says, of a result that is one."""
        return self.keep.matrix and not self.tabulates

    @field_validator("test")
    @classmethod
    def _test_of_factors(cls, test: Selection | None, info: ValidationInfo) -> Selection | None:
        # `factors` that are wrong themselves are not in `data`, and are told alone.
        if test is None and info.data.get("factors", "") is None:
            raise PydanticKnownError("missing")
        return test

    @model_validator(mode="wrap")
    @classmethod
    def _inversion_of_factors(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        """With `factors` their job's inversion is taken: `model_fields_set` says whether one was given all the same."""
        left_out = isinstance(data, dict) and data.get("factors") and "inversion" not in data
        job = handler({**data, "inversion": Direct()} if left_out else data)
        if left_out:
            job.model_fields_set.discard("inversion")
        return job

    @model_validator(mode="after")
    def _sets_are_columns(self) -> Self:
        if self.groups is None:
            return self
        if self.aggregate is not None and self.aggregate.train is not None:
            raise ValueError("'groups' and 'aggregate.train' both make the columns; give one")
        if self.influence_type != "up":
            raise ValueError(
                "'groups' are removed together; influence_type 'perturbation' moves rows: use 'up'"
            )
        return self

    @model_validator(mode="after")
    def _parts_of_each_influence(self) -> Self:
        if self.scores_by == "row":
            return self
        given, why = f"'scores_by' {self.scores_by}", None
        if self.influence_type != "up":
            why = "belongs to influence_type 'up'; perturbation has a number a feature already"
        elif self.tabulates:
            why = "is of each training row; leave 'aggregate' and 'groups' out, or take 'row'"
        elif not self.scores_rows:
            why = "scores training rows, and 'keep' keeps the factors alone; keep 'matrix', 'top' or 'mean' as well"
        elif self.precision in ("tf32", "bf16"):
            why = f"is in full precision, not {self.precision}; use 'float32' or 'float64'"
        if why is not None:
            raise ValueError(f"{given} {why}")
        return self

    @model_validator(mode="after")
    def _something_is_kept(self) -> Self:
        if not (self.keep.matrix or self.keep.top or self.keep.mean or self.keep.factors):
            raise ValueError("'keep' keeps nothing; ask for 'matrix', 'top', 'mean' or 'factors'")
        if self.influence_type == "perturbation" and (self.keep.top or self.keep.mean):
            raise ValueError(
                "'keep.top' and 'keep.mean' rank training rows by one number each; perturbation has one for "
                "each feature: keep 'matrix' or 'factors'"
            )
        if self.influence_type == "up" and (self.perturb_at or self.perturb_input):
            raise ValueError(
                "'perturb_at' and 'perturb_input' belong to influence_type 'perturbation'"
            )
        return self


class FactorsJob(AttributionJob):
    """(H + λI)⁻¹ ∇m(z_test), a row a test row: stored, for influences later. m is the measurement."""

    beside_solutions = AttributionJob.beside_solutions | {"train"}
    kind: Literal["factors"] = "factors"
    measurement: Measurement = LossMeasurement()
    test: Selection


class IhvpJob(AttributionJob):
    """x with (H + λI) x = b for right-hand sides of your own."""

    predicts = ()
    beside_solutions = AttributionJob.beside_solutions | {"train"}
    kind: Literal["ihvp"] = "ihvp"
    rhs: Vectors = Field(
        description="A safetensors blob with one tensor `rhs` of shape (right-hand sides, parameters); or a job whose "
        "`factors`, `gradients` or `products` are the right-hand sides."
    )

    _measures_nothing = model_validator(mode="before")(no_measurement)


class SelfInfluencesJob(AttributionJob):
    """The influence of each training row on itself."""

    predicts = ("train",)
    # The right-hand sides are gradients of the training rows, each multiplied with its own solution.
    is_self = True
    kind: Literal["self_influences"] = "self_influences"

    _measures_nothing = model_validator(mode="before")(no_measurement)

    @property
    def scores_rows(self) -> bool:
        """Each with itself."""
        return True

    @property
    def keeps_factors(self) -> bool:
        """Never: there is one for each training row."""
        return False


# A job of a new kind is a member here, a row of `service.jobs.kinds` and one of `workers.kinds`.
JobRequest = Annotated[
    InfluencesJob
    | FactorsJob
    | IhvpJob
    | SelfInfluencesJob
    | IndexJob
    | GradientsJob
    | HvpJob
    | RetrainJob
    | QualityJob,
    Field(discriminator="kind"),
]
