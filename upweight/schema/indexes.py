"""Indexes: the job that makes one, what is asked of it, rows in the request itself, and what it answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import AliasChoices, Field, model_validator

from upweight.schema.any_job import Selection
from upweight.schema.attribution import AttributionJob, no_measurement
from upweight.schema.base import Answer, Reference, Request, Text
from upweight.schema.curvature import Curvature, CurvatureField
from upweight.schema.damping import Damping
from upweight.schema.inversion import Direct, Inversion
from upweight.schema.projection import Eigenvectors, Projection
from upweight.schema.vectors import JOB_PATTERN

USUAL_DIMENSION = 512  # numbers of a layer
MAXIMUM_DIMENSION = 1 << 20
MAXIMUM_QUERIES = 64  # rows of one request
MAXIMUM_CANDIDATES = 10_000
MAXIMUM_CHARACTERS = 100_000  # of a text


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
        description="Numbers that are kept of a row's gradient, a layer on the mean; of a random projection, a layer "
        "at most. A layer with fewer parameters counts with what it has.",
    )
    projection: Projection = Field(
        Eigenvectors(),
        description="Which numbers: `eigenvectors`, those along eigenvectors of the curvature that are largest over a "
        "sample of the rows, in whichever layer; or `random`, a random projection of each layer's gradients, which is "
        "built faster and finds fewer of the strongest rows by its numbers alone. A string alone is the `method`.",
    )
    stored_as: Literal["float16", "int8"] = Field(
        "float16",
        description="What each number is stored as, times a factor for each row: 2 bytes, or 1. What that costs is in "
        "the recall that the info tells.",
    )
    extends: Annotated[str, Field(pattern=JOB_PATTERN)] | None = Field(
        None,
        description="An earlier index of the same model, whose rows are the first of `train`, as those of a dataset's "
        "earlier version are when shards were added to it. Its numbers and eigenvectors are taken; the new rows alone "
        "are computed.",
    )

    _measures_nothing = model_validator(mode="before")(no_measurement)

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
        most = self.projection.most
        if most is not None and self.dimension > most:
            raise ValueError(
                f"'dimension' {self.dimension} with projection {self.projection.method!r} takes a matrix of that side "
                f"for each layer; give at most {most}, or projection 'eigenvectors'"
            )
        if self.has_damping_axis:
            raise ValueError("an index has one λ; give 'hessian_regularization' as one, not a list")
        return self


def different_lengths(lengths: Mapping[str, int]) -> str | None:
    """What is wrong with columns of so many rows each; None where all have as many."""
    if len(set(lengths.values())) <= 1:
        return None
    told = ", ".join(f"{name!r} has {count}" for name, count in lengths.items())
    return f"the columns have different numbers of rows: {told}"


class IndexQuery(Request):
    """Which training rows help, and which harm, some rows: those in `columns`, texts, or rows of a dataset."""

    columns: dict[Text, Annotated[list[Any], Field(min_length=1, max_length=MAXIMUM_QUERIES)]] = (
        Field(
            {},
            description="The rows, column by column as in the index's dataset: inputs and targets, each a list with an "
            "entry a row, a number or nested lists of the row's shape.",
            examples=[{"x": [[0.0, 1.0]], "y": [1]}],
        )
    )
    text: (
        Annotated[
            list[Annotated[str, Field(min_length=1, max_length=MAXIMUM_CHARACTERS)]],
            Field(min_length=1, max_length=MAXIMUM_QUERIES),
        ]
        | None
    ) = Field(
        None,
        description="Or texts, which the `tokenizer` of the index's dataset makes rows of, as the dataset's own rows "
        "are made: padded, with the tokens that it puts around, and with the columns that follow from the tokens, such "
        "as the next token as label. Others, such as a text's class, are in `columns`.",
        examples=[["the cat sat on the mat"]],
    )
    test: Selection | None = Field(None, description="Or rows of a dataset that is there.")
    k: Annotated[int, Field(ge=1, le=1_000)] = Field(
        20, description="Training rows of each sign, for each row."
    )
    candidates: Annotated[int, Field(ge=0, le=MAXIMUM_CANDIDATES)] = Field(
        500,
        description="Training rows that are found by the index's numbers for each row, half of them of either sign, "
        "and scored by their whole gradients; 0: the answer is by the numbers alone.",
    )
    model: Reference | None = Field(
        None,
        description="The model that is meant. An index of an earlier version than this one is refused; null: than the "
        "newest of its name.",
    )

    @model_validator(mode="after")
    def _rows_are_given_once(self) -> Self:
        if bool(self.columns or self.text) == (self.test is not None):
            raise ValueError(
                "give the rows in 'columns' or as 'text', or say by 'test' which rows of a dataset are meant"
            )
        lengths = {name: len(values) for name, values in self.columns.items()}
        if self.text is not None:
            lengths["text"] = len(self.text)
        different = different_lengths(lengths)
        if different is not None:
            raise ValueError(different)
        if 0 < self.candidates < 2 * self.k:
            raise ValueError(
                f"{self.candidates} candidates are fewer than the {self.k} helpful and {self.k} harmful rows that are "
                f"asked for; give 0, or at least {2 * self.k}"
            )
        return self


class IndexProgress(Answer):
    """How far a question to an index has come."""

    stage: str = Field(
        description="`queued`, where `total` questions are before it; then what a worker does: `load` the model and "
        "rows, `copy` the index's numbers to its disk, `tokens`, `gradients`, `search`, `candidates`."
    )
    done: int = 0
    total: int = 0
    unit: str = ""


class IndexedRow(Answer):
    """A training row and its influence on a row that was asked about."""

    row: int = Field(description="Row of the training dataset.")
    id: int | str = Field(description="Of the row; its number where the dataset has no ids.")
    influence: float = Field(description="Positive: the row lowers the loss, it is helpful.")


class Explained(Answer):
    """Of one row that was asked about: the training rows that help and harm most, the strongest first."""

    helpful: list[IndexedRow]
    harmful: list[IndexedRow]
    tokens: list[int] | None = Field(
        None, description="Of a row that was given as text: its tokens, as the model took them."
    )


class IndexAnswer(Answer):
    """What an index answers, a row of the request an entry."""

    index: str = Field(description="Id of the index.")
    rows: list[Explained]
    exact: bool = Field(
        description="Whether the influences are of whole gradients, and not by the index's numbers alone."
    )
    candidates: int = Field(description="Training rows that were scored by their whole gradients.")
    seconds: float = Field(description="What it took on the worker.")
    remarks: list[str] = []
