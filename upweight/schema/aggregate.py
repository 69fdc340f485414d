"""Groups of rows: influences added up over rows that a column names alike, or over sets that are named."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from upweight.schema.any_job import MetadataValue, RowName
from upweight.schema.base import Answer, Request, Text
from upweight.schema.rows import RowSelection

MAXIMUM_GROUPS = 10_000  # of one side
MAXIMUM_SETS = 1000
MAXIMUM_NAMED = 200_000  # rows of all sets
# A set of rows: numbers as text, or ids in a list; numbers in a list where there are no ids, or ids are texts.
RowSet = Annotated[
    Annotated[RowSelection, Tag("text")]
    | Annotated[tuple[RowName, ...], Field(min_length=1, max_length=MAXIMUM_NAMED), Tag("list")],
    Discriminator(lambda given: "text" if isinstance(given, str) else "list"),
]


class GroupedBy(Request):
    """The groups that a column makes, one for each of its values, and what stands for a group's rows."""

    by: Text = Field(description="A metadata column, or a target with one value a row.")
    reduce: Literal["sum", "mean"] = "sum"


class Aggregate(Request):
    """What is added up before it is stored: the whole matrix never is."""

    test: Literal["mean", "sum"] | Text | GroupedBy | None = Field(
        None,
        description="Over test rows: `mean` or `sum` of all, which gives one row; or the name of a metadata column or "
        "target, which gives a row for each of its values, the sum over the test rows that have it. "
        '`{"by": "task", "reduce": "mean"}` takes the mean.',
        examples=["mean", "y", {"by": "task", "reduce": "mean"}],
    )
    train: Literal["sum"] | Text | GroupedBy | None = Field(
        None,
        description="Over training rows, as `test`: what a group's rows do together, to first order, is the sum.",
        examples=["source"],
    )

    @field_validator("train")
    @classmethod
    def _no_mean_of_all(cls, train: str | GroupedBy | None) -> str | GroupedBy | None:
        if train == "mean":
            raise ValueError(
                "training rows together do the sum of what each does; take 'sum', or divide it by their number"
            )
        return train

    @model_validator(mode="after")
    def _groups_something(self) -> Self:
        if self.test is None and self.train is None:
            raise ValueError("groups nothing; give 'test', 'train', or both")
        return self

    def column(self, side: Literal["test", "train"]) -> str | None:
        """Whose values make the groups of a side; None where all its rows are one, or it is not grouped."""
        found = getattr(self, side)
        if isinstance(found, GroupedBy):
            return found.by
        return None if found in (None, "mean", "sum") else str(found)

    def reduction(self, side: Literal["test", "train"]) -> Literal["sum", "mean"] | None:
        """What stands for the rows of a group; None for a side that is not grouped."""
        found = getattr(self, side)
        if found is None:
            return None
        if isinstance(found, GroupedBy):
            return found.reduce
        return "mean" if found == "mean" else "sum"


class Group(Answer):
    """Rows that are one along an axis of the result."""

    name: MetadataValue = Field(
        description="The column's value in its rows, of a class its name; `mean` or `sum` where all rows are one; the "
        "place in the job's `groups`."
    )
    value: MetadataValue = Field(description="The column's value as it is stored.")
    rows: int = Field(description="How many rows of the job it has.")


class Groups(Answer):
    """The groups along each axis, in the order of the axis; null where the axis has rows."""

    test: list[Group] | None = None
    train: list[Group] | None = None

    @property
    def names(self) -> dict[str, list[bool | int | float | str]]:
        """Of the groups of each side that has some."""
        sides = {"test": self.test, "train": self.train}
        return {side: [each.name for each in some] for side, some in sides.items() if some}
