"""The record of a job: how far it is, what it took, what it has stored, and what that is worth."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Literal

from pydantic import Field, JsonValue

from upweight.schema.aggregate import Groups
from upweight.schema.base import CONTRACT, Answer, Contract
from upweight.schema.damping import ResolvedDamping
from upweight.schema.display import Record
from upweight.schema.estimate import Estimate
from upweight.schema.job import JobRequest
from upweight.schema.problem import Problem, Progress
from upweight.schema.quality import QualityJob
from upweight.schema.retraining import ModelMade, RetrainJob, TrainingCurve
from upweight.schema.vectors import GradientsJob, HvpJob
from upweight.schema.verdict import Verdict

# Kinds of which a failed attempt's objects stay, for a retry to go on from.
RESUMABLE = frozenset(
    each.model_fields["kind"].default
    for each in (RetrainJob, QualityJob, GradientsJob, HvpJob)
    if each.resumable
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

    def without(self, target: str | None) -> ColumnMatch:
        """The same without this target column, where it is one."""
        return self.model_copy(
            update={"targets": [each for each in self.targets if each != target]}
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
    test_id: str | None = Field(
        None, description="Of `hvp` the dataset whose rows are its vectors, where it has one."
    )
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
