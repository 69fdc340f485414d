"""Datasets: rows in columns, in one or more shards."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal, Self

from pydantic import Field, StrictBool, StrictFloat, StrictInt, field_validator, model_validator

from upweight.schema.any_job import MAXIMUM_CHANGES, Dropped
from upweight.schema.base import (
    CONTRACT,
    Answer,
    Contract,
    Digest,
    Labels,
    Name,
    Request,
    Text,
    first_repeated,
)
from upweight.schema.display import Record
from upweight.schema.model import CheckState, TensorSpec
from upweight.schema.problem import Problem

MAXIMUM_SHARDS = 10_000
MAXIMUM_FEATURES = 100_000  # names, of all columns
MAXIMUM_METADATA = 64  # columns
VALUES_LISTED = 100  # of a metadata column: its values, where there are no more


Shown = Annotated[Text, Field(description="The input or target that is shown of each row.")]


class ImagePreview(Request):
    """Rows are pictures: `column` holds (height, width), (channels, height, width), or flat pixels with `shape`."""

    kind: Literal["image"] = "image"
    column: Shown
    shape: Annotated[tuple[int, ...], Field(min_length=2, max_length=3)] | None = None
    minimum: float = 0.0
    maximum: float = 1.0


class TextPreview(Request):
    """Rows are texts; `column` holds token ids, `vocabulary` the words as a JSON list in a blob.

    Words that begin with a space are pieces, which are put together as they are; others get spaces between them.
    """

    kind: Literal["text"] = "text"
    column: Shown
    vocabulary: Digest | None = None


class TablePreview(Request):
    """Rows are table rows; `names` heads the columns."""

    kind: Literal["table"] = "table"
    column: Shown
    names: Annotated[tuple[Text, ...], Field(max_length=MAXIMUM_FEATURES)] = ()


Preview = Annotated[ImagePreview | TextPreview | TablePreview, Field(discriminator="kind")]


class DatasetRequest(Request):
    """Registers a dataset: its shards as blobs in order, or a `uri` under a prefix that the operator allows."""

    name: Name
    format: Literal["safetensors", "npz", "parquet"]
    blobs: Annotated[tuple[Digest, ...], Field(min_length=1, max_length=MAXIMUM_SHARDS)] | None = (
        None
    )
    uri: Annotated[str, Field(max_length=2048)] | None = None
    inputs: Annotated[tuple[Text, ...], Field(min_length=1, max_length=64)] = ("x",)
    targets: Annotated[tuple[Text, ...], Field(max_length=64)] = ("y",)
    preview: Preview | None = None
    class_names: Annotated[tuple[Text, ...], Field(max_length=100_000)] = ()
    features: Annotated[dict[Text, tuple[Text, ...]], Field(max_length=128)] = Field(
        {},
        description="Names of the numbers along a column's last axis, by column. A job matches its datasets by them.",
    )
    ids: Text | None = Field(
        None,
        description="The column with the rows' ids, which no model sees: whole numbers, (rows,), or UTF-8 text as "
        "uint8, (rows, bytes), filled up with 0. Each row has one, and each another.",
    )
    metadata: Annotated[tuple[Text, ...], Field(max_length=MAXIMUM_METADATA)] = Field(
        (),
        description="Columns that no model sees and rows are chosen and grouped by: numbers or booleans, (rows,), or "
        "text as ids have it.",
        examples=[["source"]],
    )
    tokenizer: Digest | None = Field(
        None,
        description="A blob: the `tokenizer.json` that the rows' tokens were made with. A worker reads it, refuses one "
        "that has not all of these tokens, and shows rows as words.",
    )
    labels: Labels = {}

    @field_validator("class_names")
    @classmethod
    def _each_class_has_a_name_of_its_own(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        twice = first_repeated(names)
        if twice is not None:
            one, other, *_ = (at for at, name in enumerate(names) if name == twice)
            raise ValueError(
                f"classes {one} and {other} are both named {twice!r}; give each a name of its own"
            )
        return names

    @model_validator(mode="after")
    def _no_model_sees_them(self) -> Self:
        seen = (*self.inputs, *self.targets)
        if self.ids is not None and self.ids in seen:
            raise ValueError(f"'ids' names {self.ids!r}, which is an input or a target")
        for name in self.metadata:
            if name in seen or name == self.ids:
                what = "the column of ids" if name == self.ids else "an input or a target"
                raise ValueError(f"'metadata' names {name!r}, which is {what}")
            if self.metadata.count(name) > 1:
                raise ValueError(f"'metadata' names {name!r} twice")
        return self

    @model_validator(mode="after")
    def _features_have_columns(self) -> Self:
        for column, names in self.features.items():
            if column not in (*self.inputs, *self.targets):
                raise ValueError(
                    f"'features' names those of {column!r}, which is no column of this dataset"
                )
            twice = first_repeated(names)
            if twice is not None:
                raise ValueError(f"'features' of column {column!r} names {twice!r} twice")
        if sum(map(len, self.features.values())) > MAXIMUM_FEATURES:
            raise ValueError(f"'features' may have {MAXIMUM_FEATURES} names in all")
        return self

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.blobs is None) == (self.uri is None):
            raise ValueError(
                "give either 'blobs' (uploaded shards in order) or 'uri' (a prefix in the object storage)"
            )
        columns = [*self.inputs, *self.targets]
        twice = sorted({column for column in columns if columns.count(column) > 1})
        if twice:
            raise ValueError(f"columns {twice} are named twice; a column is an input or a target")
        return self


# A choice by what is given, so that what is wrong is told of that alone.
NewLabel = StrictBool | StrictInt | StrictFloat | Text


class DeriveRequest(Request):
    """Derives a dataset from another one: fewer of its rows, other labels. No data are copied."""

    name: Name
    drop: Dropped | None = Field(
        None,
        description="The rows to leave out: a list of their ids, or of their numbers where ids are texts or there "
        "are none; or slices of numbers as text: `3,5,100:200`.",
    )
    relabel: Annotated[dict[Text, NewLabel], Field(max_length=MAXIMUM_CHANGES)] = Field(
        {},
        description="New labels by the rows' ids, or numbers where there are no ids: a class's number or name, or the "
        "number to predict.",
        examples=[{"17": 3}],
    )
    labels: Labels = {}

    @model_validator(mode="after")
    def _something_changes(self) -> Self:
        if self.drop is None and not self.relabel:
            raise ValueError("changes nothing; give 'drop', 'relabel', or both")
        return self


class DatasetChange(Request):
    """What may be changed of a dataset that is there: how its rows are shown."""

    preview: Preview | None = Field(
        description="Null leaves it to what the columns suggest. A table's `names` are those it has: jobs match "
        "datasets by them, so that they can't be changed."
    )


class DerivedFrom(Answer):
    """How a dataset differs from the one that it is derived from; the data are those of the first of the line."""

    dataset: str = Field(description="Id of the dataset it was derived from.")
    dropped: int = Field(description="Rows of that dataset which it leaves out.")
    relabelled: int = Field(description="Rows of that dataset whose label it replaces.")
    index: Digest = Field(
        description="Blob: rows `starts` to `stops` of the shards, in order, and `labels` of the rows `patched`."
    )


class ColumnSpec(TensorSpec):
    """One column: shape of one row, and the range of its values (null when it has none)."""

    minimum: float | None = None
    maximum: float | None = None
    float32_loss: float | None = Field(
        None,
        description="Of a float64 column: the most that float32 rounds a value by, as a part of the range of its "
        "feature (the place in a row).",
    )


class MetadataSpec(Answer):
    """A metadata column, as a worker found it."""

    name: str
    kind: Literal["text", "integer", "float", "boolean"]
    values: list[bool | int | float | str] | None = Field(
        None,
        description=f"The values that there are, sorted; null where there are over {VALUES_LISTED}.",
    )


class DatasetFile(Answer):
    """One shard of a dataset by `uri`, as it was when the dataset was registered."""

    path: str = Field(description="Below the uri.")
    size_bytes: int
    etag: str = Field(description="The storage's name for just these bytes.")


class DatasetRecord(Record):
    """A registered dataset."""

    id: str
    name: str
    version: int
    state: CheckState
    problem: Problem | None = None
    created_at: datetime
    checked_at: datetime | None = None
    format: str
    blobs: list[str] | None = None
    uri: str | None = None
    files: list[DatasetFile] = Field(
        [], description="The shards by `uri`, in order; one that changes makes jobs fail."
    )
    inputs: list[str]
    targets: list[str]
    preview: Preview | None = None
    class_names: list[str] = []
    features: dict[str, list[str]] = {}
    ids: str | None = Field(None, description="The column with the rows' ids.")
    id_kind: Literal["number", "text"] | None = Field(
        None, description="What ids are; null where there are none, and a row's number is its id."
    )
    metadata: list[str] = Field([], description="Columns that no model sees.")
    tokenizer: str | None = Field(None, description="Digest of its `tokenizer.json`.")
    tokenizer_size: int | None = Field(None, description="How many tokens that has.")
    metadata_columns: list[MetadataSpec] = Field(
        [], description="What they are; empty until a worker has looked."
    )
    labels: dict[str, str] = {}
    digest: str = Field(
        description="Of all that decides results: shards in order, format, columns."
    )
    size_bytes: int
    rows: int | None = None
    shard_rows: list[int] = Field(
        [],
        description="Rows of each shard; of a derived dataset all that are there, not those it has.",
    )
    columns: list[ColumnSpec] = Field(
        [], description="Shapes of one row: the row dimension is left out."
    )
    contract: Contract = CONTRACT
    derived_from: DerivedFrom | None = Field(
        None, description="Of a dataset that shares another's shards; null where it has its own."
    )
    used_by: list[str] = Field(
        [],
        description="Jobs that hold it, and datasets derived from it; it can't be deleted before they are.",
    )

    def features_of(self, column: str) -> list[str]:
        """The names along a column's last axis, of `features` or of a table's preview; empty where there are none."""
        if column in self.features:
            return self.features[column]
        preview = self.preview
        if not isinstance(preview, TablePreview) or preview.column != column:
            return []
        shape = next((each.shape for each in self.columns if each.name == column), [])
        whole = bool(shape) and len(set(preview.names)) == len(preview.names) == shape[-1]
        return list(preview.names) if whole else []


class DatasetRows(Answer):
    """Some rows of a dataset, column by column."""

    dataset: str = Field(description="Id of the dataset.")
    rows: list[int]
    ids: list[int | str] | None = Field(None, description="Of the rows; null where they have none.")
    columns: dict[str, list[Any]] = Field(
        description="For each column a list with one entry a row: a number, or nested lists of the row's shape."
    )
    metadata: dict[str, list[bool | int | float | str]] = Field(
        {}, description="For each metadata column its value in each row."
    )
