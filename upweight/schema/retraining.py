"""Retraining: a job that trains a model by a recipe on chosen rows, and what it gives."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from upweight.schema.any_job import Dropped, JobBase, Selection
from upweight.schema.base import Answer, Digest, Name
from upweight.schema.recipe import Recipe


class RetrainJob(JobBase):
    """Trains a model by its recipe on chosen rows: gives a new model, whose parent is the one that is named."""

    resumable: ClassVar[bool] = True
    kind: Literal["retrain"] = "retrain"
    train: Selection = Field(description="The rows that are trained on, before `drop`.")
    drop: Dropped | None = Field(
        None,
        description="Rows of the dataset that are left out: a list of their ids, or of their numbers where ids are "
        "texts or there are none; or slices of numbers as text: `3,5,100:200`. The job's record has the numbers, as "
        "text.",
    )
    given: Digest | None = Field(
        None,
        description="A safetensors blob with arrays, each of them optional: `rows` and `drop`, row numbers, for what "
        "is too long to be written; `weights`, a factor of each row's loss; `labels`, in place of the dataset's "
        "targets. The last two have an entry for each row of the dataset, or for each of `weight_rows` and "
        "`label_rows`; the other rows keep weight 1 and their label.",
    )
    test: Selection | None = Field(
        None, description="Rows on which loss, and accuracy where there are classes, are measured."
    )
    recipe: Recipe | None = Field(None, description="In place of the model's own.")
    name: Name | None = Field(
        None,
        description="Of the model that it gives, and of the job; by default the parent's, with `-retrained`.",
    )

    @property
    def method_name(self) -> str:
        """The recipe's optimizer, where the job has one of its own."""
        return self.recipe.optimizer if self.recipe is not None else "recipe"

    @model_validator(mode="after")
    def _trains_in_a_plain_precision(self) -> Self:
        if self.precision in ("tf32", "bf16"):
            raise ValueError(
                f"'precision' {self.precision} is that of the product with training gradients, and there is none "
                "here; use 'float32' or 'float64'"
            )
        return self


class TrainingCurve(Answer):
    """Losses of a training, of at most some hundred of its epochs."""

    epochs: list[int] = Field(description="Which epochs, counted from 1.")
    train_loss: list[float | None] = Field(
        description="The mean over the epoch's rows, each at the weights that its batch met."
    )
    test_epochs: list[int] = Field(
        [], description="After which epochs the test rows were looked at."
    )
    test_loss: list[float | None] = []
    test_accuracy: list[float | None] = []


class ClassMetrics(Answer):
    """Of the test rows of one class."""

    label: int
    rows: int
    loss: float
    accuracy: float


class Metrics(Answer):
    """What a model makes of test rows."""

    rows: int
    loss: float
    accuracy: float | None = Field(None, description="Null where the loss has no classes.")
    by_class: list[ClassMetrics] = []


class ModelMade(Answer):
    """A model that a job has made."""

    id: str
    name: str
    version: int


class Training(Answer):
    """How a retrained model came about."""

    parent: ModelMade = Field(description="The model that was trained anew.")
    job: str
    recipe: Recipe
    dataset: str = Field(description="Id of the dataset that it was trained on.")
    rows: int = Field(description="How many of its rows.")
    chosen: dict[str, Any] = Field(
        {}, description="The job's `train`, `drop` and `given`, as they were asked for."
    )
    metrics: Metrics | None = Field(None, description="Of the test rows, where there were some.")
    parent_metrics: Metrics | None = Field(
        None, description="The parent's, on the same rows: what it was before."
    )


class Bank(Answer):
    """Weights that were retrained by one recipe on subsets of one dataset's rows."""

    id: str = Field(description="The digest of all that decides the weights, but the subset.")
    model: ModelMade = Field(description="The model that was trained anew.")
    dataset: ModelMade = Field(description="The dataset, by id, name and version.")
    recipe: Recipe
    seed: int = Field(0, description="What was added to the recipe's.")
    parameters: int
    subsets: int = Field(description="How many weights there are.")
    size_bytes: int
    created_at: datetime


class Banks(Answer):
    """All banks of a namespace."""

    items: list[Bank]


def in_evaluation_mode(layers: Sequence[str]) -> str:
    """What people are told of a retraining of a model with such layers."""
    named = ", ".join(map(repr, layers[:5])) + (", …" if len(layers) > 5 else "")
    return (
        f"Retrained in evaluation mode: {named} (dropout or batch normalisation) did what they do in evaluation, "
        "dropout off and statistics fixed. If the model was trained otherwise, this is about models trained that "
        "way, not about its own training."
    )
