"""What jobs of every kind have in common: a job of a new kind is a subclass of `JobBase`."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Discriminator, Field, StrictBool, StrictFloat, StrictInt, Tag, model_validator

from upweight.schema.base import JobName, Labels, Note, PositiveInt, Reference, Request, Text
from upweight.schema.curvature import Curvature, CurvatureField
from upweight.schema.measurement import AnyMeasurement, LossMeasurement
from upweight.schema.rows import RowSelection
from upweight.schema.webhook import Webhook

MAXIMUM_IDS = 100_000  # of one choice of rows
MAXIMUM_CHANGES = 200_000  # rows of one derivation that are named one by one
# A row by its id, or by its number in a dataset whose ids, if it has some, are no numbers.
RowName = Annotated[StrictInt, Field(ge=-(2**53), le=2**53)] | Text
# Rows that are left out: by name in a list, or as slices of numbers.
Dropped = Annotated[
    Annotated[RowSelection, Tag("text")]
    | Annotated[tuple[RowName, ...], Field(max_length=MAXIMUM_CHANGES), Tag("list")],
    Discriminator(lambda given: "text" if isinstance(given, str) else "list"),
]
# What a metadata column, or a label, is in a row.
MetadataValue = StrictBool | StrictInt | StrictFloat | Annotated[str, Field(max_length=1024)]


class Selection(Request):
    """A dataset, or some of its rows: by number, by id, by what metadata columns or labels are in them."""

    dataset: Reference
    rows: RowSelection | None = None
    ids: Annotated[tuple[RowName, ...], Field(min_length=1, max_length=MAXIMUM_IDS)] | None = Field(
        None,
        description="The rows by their ids, in this order; by number in a dataset without ids. In the job's record "
        "`rows` has their numbers instead.",
    )
    where: (
        dict[Text, Annotated[tuple[MetadataValue, ...], Field(min_length=1, max_length=10_000)]]
        | None
    ) = Field(
        None,
        description="Of all rows, or of those that `rows` or `ids` choose, those with one of these values in each of "
        "these columns: metadata columns, or a target with one value a row (a class by number or name). The job's "
        "record has it, and in `rows` the numbers that it came to.",
        examples=[{"source": ["web", "book"]}],
    )

    @model_validator(mode="after")
    def _rows_by_one_name(self) -> Self:
        if self.rows is not None and self.ids is not None:
            raise ValueError("'rows' and 'ids' choose the same; give one of them")
        return self


class JobBase(Request):
    """The fields of every kind."""

    # Whether each training row is scored with itself.
    is_self: ClassVar[bool] = False
    # Whether each training row's gradient is kept, as few numbers to be searched.
    is_index: ClassVar[bool] = False
    # Whether what a failed attempt has stored stays, for a retry to go on from.
    resumable: ClassVar[bool] = False

    model: Reference
    precision: Literal["float32", "float64", "tf32", "bf16"] | None = Field(
        None,
        description="Of the computation; null means the model's own, its record's `precision`. `tf32` and `bf16` are "
        "those of the product with training gradients alone, all else is in float32 then; a sample is checked "
        "against float32, and the info has the correlation and a warning below 0.99. A job's record has the "
        "precision that was taken.",
    )
    batch_size: PositiveInt | Literal["auto"] = "auto"
    seed: Annotated[int, Field(ge=0, le=2**63 - 1)] = 0
    priority: Literal["high", "default", "low"] = Field(
        "default",
        description="Among the namespace's own jobs. Namespaces take turns; `high` goes before jobs of others for a "
        "part of the turns, and needs a key of role `admin` unless the operator says otherwise.",
    )
    timeout_s: Annotated[int, Field(ge=1, le=30 * 86_400)] | None = Field(
        None, description="Running time after which the job fails; null means the operator's limit."
    )
    reuse: bool = Field(True, description="Use what earlier jobs with the same digest have stored.")
    webhook: Webhook | None = None
    columns: Annotated[dict[Text, Text], Field(max_length=128)] = Field(
        {},
        description="Which column an input of the model takes, by the input's name, where the names differ: "
        '`{"volume": "vol"}`. Datasets with such a column follow; the other inputs take the columns of their names.',
    )
    labels: Labels = {}
    name: JobName | None = None
    note: Note | None = None

    @property
    def method_name(self) -> str:
        """What lists of jobs show as the method."""
        return ""

    @property
    def measured(self) -> AnyMeasurement:
        """What of a test row is explained."""
        found: AnyMeasurement | None = getattr(self, "measurement", None)
        return found or LossMeasurement()

    @property
    def keeps_matrix(self) -> bool:
        """Whether a score of each test row with each training row is part of the result."""
        return False

    @property
    def has_damping_axis(self) -> bool:
        """Whether the arrays of the result have an axis λ."""
        return False

    @property
    def dampings(self) -> tuple[float, ...]:
        """The λ's as numbers; none where there is no inversion."""
        return ()


class CurvatureJob(JobBase):
    """What jobs with a curvature have in common."""

    train: Selection
    curvature: CurvatureField = Field(
        Curvature(),
        description="The matrix C of (C + λI)⁻¹, which is written H elsewhere: its `kind`, and its `structure`. A "
        "string alone is the kind.",
    )


class JobChange(Request):
    """What may be changed of a job that is there; what is left out stays, null takes it away."""

    name: JobName | None = None
    note: Note | None = None
