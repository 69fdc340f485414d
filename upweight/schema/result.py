"""Answers about results: slices, rankings, info, files; and about blobs, lists and health."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import Field, JsonValue

from upweight.schema.base import Answer
from upweight.schema.measurement import Sign

Item = TypeVar("Item")


class Page(Answer, Generic[Item]):
    """A part of a list, newest first unless `order=asc`."""

    items: list[Item]
    has_more: bool
    next_after: str | None = Field(None, description="Give this as `after` for the next page.")


class InfluenceSlice(Answer):
    """A slice of the matrix as JSON. For more than a few thousand numbers ask for `application/x-npy`."""

    dampings: list[float] | None = Field(
        None,
        description="The λ's, one for each entry of the first axis; null where there is no such axis.",
    )
    test: list[int] = Field(description="Rows of the test dataset, one for each row of `values`.")
    train: list[int] = Field(
        description="Rows of the training dataset, one for each column of `values`."
    )
    test_ids: list[int | str] = Field([], description="Of the test rows; their numbers without.")
    train_ids: list[int | str] = Field([], description="Of the training rows.")
    layers: list[str] | None = Field(
        None, description="Of scores by layer: the modules that the last axis is over."
    )
    shape: list[int]
    values: list[Any]


class Ranked(Answer):
    """A training row and its influence."""

    id: int | str | None = Field(
        None, description="Of the row; its number where the dataset has no ids."
    )
    row: int = Field(description="Row of the training dataset.")
    column: int = Field(description="Column of the influence matrix.")
    influence: float
    text: str | None = Field(
        None,
        exclude_if=lambda text: text is None,
        description="Asked for by `words`: the row in the words of its dataset's tokenizer or vocabulary.",
    )


class Ranking(Answer):
    """The k training rows that are most helpful or most harmful, or lower or raise the measurement most; the strongest
    first."""

    test: int | None = Field(
        description="Row of the influence matrix; null: the mean over all test rows, or the influence of each row "
        "on itself."
    )
    sign: Sign
    items: list[Ranked]


class Matched(Answer):
    """A training row and its BM25 score."""

    id: int | str | None = Field(
        None, description="Of the row; its number where the dataset has no ids."
    )
    row: int = Field(description="Row of the training dataset.")
    column: int = Field(description="Column of the influence matrix.")
    score: float = Field(description="BM25: from 0, where no token is shared. It is no influence.")
    text: str | None = Field(
        None,
        exclude_if=lambda text: text is None,
        description="Asked for by `words`: the row in the words of its dataset's tokenizer or vocabulary.",
    )


class Bm25Ranking(Answer):
    """The k training rows that share the most telling tokens with test rows, the highest score first."""

    test: int | None = Field(
        description="Row of the influence matrix; null: the mean over all test rows."
    )
    items: list[Matched]


class PredictedRow(Answer):
    """What the model makes of one row. Null where there is no single number of it."""

    id: int | str | None = Field(
        None, description="Of the row; its number where the dataset has no ids."
    )
    position: int = Field(description="Row (`test`) or column (`train`) of the influence matrix.")
    row: int = Field(description="Row of the dataset.")
    loss: float | None = None
    prediction: int | float | None = Field(None, description="The class, or the number expected.")
    target: int | float | None = Field(None, description="The label, or the number.")
    error: float | None = Field(
        None,
        description="For classes: 0 where the prediction is the label, 1 where not; for sequences the share of "
        "positions that are wrong.",
    )


class PredictedRows(Answer):
    """Rows of a result with the model's loss and prediction."""

    side: Literal["test", "train"]
    total: int = Field(description="Rows of this side in all.")
    items: list[PredictedRow]


class Suspect(Answer):
    """A training row whose label may be wrong."""

    id: int | str = Field(description="Of the row; its number where the dataset has no ids.")
    row: int = Field(description="Row of the training dataset.")
    column: int = Field(description="Column of the influence matrix.")
    score: float = Field(
        description="From 0 to 1, low is suspect: the share of the result's training rows that are more suspect, with "
        "half of those that are as suspect, itself among them."
    )
    influence: float = Field(description="What it is ranked by.")
    label: int | float | None = Field(description="As the dataset has it.")
    predicted: int | float | None = Field(description="What the model makes of it.")


class Suspects(Answer):
    """Training rows, the most suspect first."""

    by: Literal["self_influences", "mean"] = Field(
        description="`self_influences`: the influence of a row on itself, the largest first. `mean`: its mean "
        "influence over the test rows, the most harmful first."
    )
    total: int = Field(description="How many rows are ranked.")
    items: list[Suspect]


class ArraySpec(Answer):
    """An array stored with a result."""

    name: str
    dtype: str
    shape: list[int]
    size_bytes: int


class Info(Answer):
    """What the inversion says of itself. Arrays are fetched by name: `?array=residuals`."""

    method: str
    summary: dict[str, JsonValue]
    arrays: list[ArraySpec] = []


class ResultFile(Answer):
    """One object of a result."""

    path: str
    size_bytes: int
    digest: str | None = None
    url: str | None = Field(None, description="Presigned, where the object storage can sign.")


class Files(Answer):
    """All objects of a result."""

    files: list[ResultFile]


class BlobRecord(Answer):
    """A stored blob."""

    digest: str
    size_bytes: int


class PresignedUrl(Answer):
    """A URL that gives or takes a blob without passing through the service."""

    url: str
    method: Literal["GET", "PUT"]
    expires_at: datetime
    then: str | None = Field(
        None,
        description="What to POST to when the bytes are there: only what has been verified is a blob.",
    )


class ComponentHealth(Answer):
    """One thing the service needs."""

    name: Literal["redis", "storage", "workers"]
    ready: bool
    detail: str


class Health(Answer):
    """Whether the service can take and do jobs."""

    ready: bool
    version: str
    components: Annotated[list[ComponentHealth], Field()] = []
