"""Jobs: what to compute, over what, how, and what to keep; and the record of how far it is."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    AliasChoices,
    Field,
    JsonValue,
    ModelWrapValidatorHandler,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import (
    InitErrorDetails,
    PydanticCustomError,
    PydanticKnownError,
    ValidationError,
)

from upweight.schema.aggregate import MAXIMUM_SETS, Aggregate, Groups, RowSet
from upweight.schema.any_job import CurvatureJob, Selection
from upweight.schema.base import CONTRACT, Answer, Contract, Request, Text
from upweight.schema.curvature import Curvature, CurvatureField
from upweight.schema.damping import Damping, ResolvedDamping, entries, numbers
from upweight.schema.display import Record
from upweight.schema.estimate import Estimate
from upweight.schema.indexes import MAXIMUM_DIMENSION, USUAL_DIMENSION
from upweight.schema.inversion import Direct, Inversion, InversionMethod, PositiveInt
from upweight.schema.measurement import LossMeasurement, Measurement
from upweight.schema.problem import Problem, Progress
from upweight.schema.quality import QualityJob
from upweight.schema.retraining import ModelMade, RetrainJob, TrainingCurve
from upweight.schema.vectors import JOB_PATTERN, GradientsJob, HvpJob, Vectors
from upweight.schema.verdict import Verdict

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


def _no_measurement(data: Any) -> Any:
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

    _measures_nothing = model_validator(mode="before")(_no_measurement)


class SelfInfluencesJob(AttributionJob):
    """The influence of each training row on itself."""

    predicts = ("train",)
    # The right-hand sides are gradients of the training rows, each multiplied with its own solution.
    is_self = True
    kind: Literal["self_influences"] = "self_influences"

    _measures_nothing = model_validator(mode="before")(_no_measurement)

    @property
    def scores_rows(self) -> bool:
        """Each with itself."""
        return True

    @property
    def keeps_factors(self) -> bool:
        """Never: there is one for each training row."""
        return False


class IndexJob(AttributionJob):
    """Each training row's gradient as few numbers, by which `POST /v1/indexes/{id}/query` finds the rows that help and
    harm a row in the request most."""

    predicts = ()
    # One block of training rows makes its numbers; nothing is solved for.
    is_index = True
    kind: Literal["index"] = "index"
    curvature: CurvatureField = Field(
        Curvature(kind="fisher", structure="ekfac"),
        description="The matrix C of (C + λI)⁻¹. Its eigenvectors must be known in closed form: a `structure` other "
        "than `full`.",
    )
    inversion: Inversion = Direct()
    hessian_regularization: Damping = Field(
        "auto",
        validation_alias=AliasChoices("hessian_regularization", "hessian_perturbation"),
        description='λ, one: a number, `auto`, or `{"relative": c}`.',
    )
    dimension: Annotated[int, Field(ge=1, le=MAXIMUM_DIMENSION)] = Field(
        USUAL_DIMENSION,
        description="Numbers that are kept of a row's gradient in each layer: those along the eigenvectors of the "
        "largest eigenvalues. A layer with no more parameters is kept whole.",
    )
    extends: Annotated[str, Field(pattern=r"^job_[0-9A-Z]{26}$")] | None = Field(
        None,
        description="An earlier index of the same model, whose rows are the first of `train`, as those of a dataset's "
        "earlier version are when shards were added to it. Its numbers and eigenvectors are taken; the new rows alone "
        "are computed.",
    )

    _measures_nothing = model_validator(mode="before")(_no_measurement)

    @property
    def scores_rows(self) -> bool:
        """By their gradients."""
        return True

    @property
    def keeps_factors(self) -> bool:
        """Never: there are no test rows."""
        return False

    @model_validator(mode="after")
    def _eigenvectors_are_known(self) -> Self:
        if not self.curvature.closed_form:
            raise ValueError(
                f"an index needs the eigenvectors of its curvature, and those of {self.curvature.label} are not known "
                "in closed form; choose structure 'ekfac' or 'kfac' of kind 'fisher', 'gauss_newton' or "
                "'empirical_fisher'"
            )
        if not self.inversion.builds_matrix:
            raise ValueError(
                f"an index is made of a curvature in closed form, which 'direct' inverts; leave out 'inversion' "
                f"{self.inversion.method!r}"
            )
        if self.has_damping_axis:
            raise ValueError("an index has one λ; give 'hessian_regularization' as one, not a list")
        return self


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
RESUMABLE = frozenset(
    each.model_fields["kind"].default for each in (RetrainJob, QualityJob) if each.resumable
)


class JobState(StrEnum):
    """Where a job stands. The last three never change."""

    QUEUED = "queued"  # waits for a worker
    RUNNING = "running"  # a worker holds its lease
    CANCELLING = "cancelling"  # a worker has been told to stop
    SUCCEEDED = "succeeded"  # its manifest is stored
    FAILED = "failed"  # `problem` says why
    CANCELLED = "cancelled"  # stopped, its partial objects gone


TERMINAL = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED})


class Cost(Answer):
    """What the job took."""

    hessian_passes: float = Field(
        0.0, description="Products of H with one block of vectors over the whole training set."
    )
    gradient_passes: float = Field(
        0.0,
        description="Passes over the training rows with their gradients, however many λ's they met.",
    )
    engine_seconds: float = Field(
        0.0, description="Time in the engine, without waiting, loading and storing."
    )
    seconds: float = Field(
        0.0, description="Time from the worker's taking it to the stored result."
    )
    peak_memory_bytes: int | None = None


class ResultLayout(Answer):
    """How a result is cut into objects: rows of one object, for each part that is kept in several."""

    factor_rows: int | None = Field(None, description="Of factors, gradients or products.")
    factors: str | None = Field(None, description="Folder of the factors in the object storage.")
    top_rows: int | None = Field(None, description="Test rows.")
    mean_rows: int | None = Field(None, description="Training rows.")
    self_influence_rows: int | None = Field(None, description="Training rows.")


class ResultSummary(Answer):
    """Shape of what was stored."""

    influence_shape: list[int] | None = None
    factor_shape: list[int] | None = Field(
        None, description="Of the factors, gradients or products: vectors by parameters."
    )
    dampings: list[float] | None = Field(
        None, description="The λ's of a list: the first axis of all arrays. Null where λ was one."
    )
    dtype: str
    stored: list[str] = Field(
        description="Of `matrix`, `by_layer`, `by_token`, `top`, `mean`, `factors`, `gradients`, `products`, "
        "`self_influences`, `index`, `info`, `report`."
    )
    part_shape: list[int] | None = Field(
        None,
        description="Of the parts of one influence, that of `scores_by` `layer` or `token`: one number a layer, or the "
        "shape of a training row's positions.",
    )
    layers: list[str] | None = Field(
        None, description="The modules whose parameters are a layer, in the order of the parts."
    )
    size_bytes: int
    layout: ResultLayout | None = Field(
        None, description="Null in results that a version before 0.2 stored: these can't be read."
    )


class ColumnMatch(Answer):
    """How a dataset's columns meet the model's inputs."""

    dataset: str = Field(description="Id of the dataset.")
    inputs: list[str] = Field(
        description="The columns that the model takes, in the order of its inputs."
    )
    targets: list[str] = Field(description="The columns that the loss takes.")
    features: dict[str, list[str]] = Field(
        {},
        description="Of columns whose numbers lie in another order than those of the job's other data: the order in "
        "which the job takes them.",
    )
    how: str = Field(
        description="`by name`, or `by place` and why; `as 'columns' says`.",
        examples=["by name", "by place: the model has one input"],
    )


class FactorsOf(Answer):
    """Where a job has its factors from that did not solve for them itself."""

    job: str
    kind: Literal["influences", "factors", "ihvp", "gradients"]
    method: str
    hessian_regularization: float | list[float]
    rows: Literal["test rows", "right-hand sides"] = Field(
        description="What they are the solutions for: gradients of the test rows, or right-hand sides of the job's own."
    )
    statuses: dict[str, int] | None = Field(
        None, description="How many of its right-hand sides ended in which status."
    )


class JobRecord(Record):
    """A job as it stands."""

    id: str
    state: JobState
    request: JobRequest
    labels: dict[str, str] = {}
    name: str | None = Field(None, description="What people call it; may be changed.")
    note: str | None = None
    model_id: str
    train_id: str
    test_id: str | None = None
    hessian_id: str | None = Field(None, description="Null of a job without an inversion.")
    remarks: list[str] = Field(
        [],
        description="What to know of the request, such as a name that does not mean its newest version.",
    )
    matched: list[ColumnMatch] = Field(
        [], description="How the columns of each of its datasets meet the model's inputs."
    )
    stage: str | None = Field(None, description="What the worker is doing, in a word.")
    progress: Progress | None = None
    queue_position: int | None = Field(
        None, description="Jobs before it in its queue, while it waits."
    )
    eta_seconds: float | None = Field(
        None, description="Estimated seconds left in the present stage."
    )
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    contract: Contract = CONTRACT
    attempt: int = Field(0, description="How often a worker has begun it.")
    worker: str | None = None
    device: str | None = None
    threads: int | None = Field(
        None, description="CPU threads of the first attempt; later ones compute with as many."
    )
    cost: Cost | None = None
    info: dict[str, JsonValue] | None = Field(
        None, description="A summary of the inversion's info; the arrays are under /info."
    )
    curve: TrainingCurve | None = Field(
        None, description="Of a retraining: its losses, epoch by epoch, from its first epochs on."
    )
    model: ModelMade | None = Field(None, description="The model that a retraining gave.")
    result: ResultSummary | None = None
    damping: ResolvedDamping | None = Field(
        None,
        description="What λ came to, where it was more than a number; null until a worker has it.",
    )
    estimate: Estimate | None = Field(
        None, description="What it was expected to take when it was submitted."
    )
    verdict: Verdict | None = Field(
        None, description="What the result is worth; null until there is one."
    )
    expired_at: datetime | None = Field(
        None, description="When retention deleted what it had stored; the record stays."
    )
    plan: dict[str, JsonValue] | None = Field(
        None, description="How a job that is spread over the workers was cut into blocks."
    )
    shared: list[str] = Field(
        [], description="Fits and factors in the object storage that it may share with other jobs."
    )
    factors_of: FactorsOf | None = Field(
        None, description="The earlier job whose factors are used; `request` has its λ and method."
    )
    groups: Groups | None = Field(
        None, description="The groups along the axes of a result that has some."
    )
    problem: Problem | None = None
    revision: int = Field(0, description="Grows with every change; the id of the newest event.")
