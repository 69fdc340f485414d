"""What the computations take by keyword, so that type checkers and editors know it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict

from upweight.client.request import Choice
from upweight.results import AsyncResult, Result
from upweight.results.rows import RowChoice
from upweight.schema import (
    Aggregate,
    Curvature,
    JobRecord,
    LogitMeasurement,
    LossMeasurement,
    MarginMeasurement,
    Relative,
    ScoresBy,
    SpanMeasurement,
    Trained,
)
from upweight.schema.curvature import Kind
from upweight.schema.inversion import Parameters

# λ; what has a `tolist`, as arrays of numpy's do, is that list. None is "auto".
Damping = (
    float
    | Literal["auto"]
    | Relative
    | Trained
    | Mapping[str, Any]
    | Sequence[float | Relative | Mapping[str, Any]]
    | None
)


# What of a test row is explained.
Measurement = (
    Literal["loss", "margin", "logit"]
    | LossMeasurement
    | MarginMeasurement
    | LogitMeasurement
    | SpanMeasurement
    | Mapping[str, Any]
)


class AnyJobOptions(TypedDict, total=False):
    """Fields of a job as they are sent, whatever it computes."""

    columns: Mapping[str, str]
    curvature: Curvature | Kind | Mapping[str, Any]
    labels: Mapping[str, str]
    name: str
    note: str
    measurement: Measurement
    priority: Literal["high", "default", "low"]
    timeout_s: int | None
    webhook: Any


class JobOptions(AnyJobOptions, total=False):
    """Fields of the job as they are sent. What a method has too (`batch_size`, `seed` of `lissa`) is the method's.

    `measurement` is of influences and of factors: right-hand sides of one's own and self-influences have none.
    """

    batch_size: int | Literal["auto"] | None
    blocks: Any
    precision: Literal["float32", "float64", "tf32", "bf16"] | None
    reuse: bool
    seed: int | None


class WaitOptions(TypedDict, total=False):
    """How to wait for a job, or that it is not to be started."""

    dry_run: bool
    wait: bool
    timeout: float | None
    progress: bool | None


class ComputationOptions(WaitOptions, total=False):
    """What all computations with an inversion take besides: λ under either name, and the Hessian's rows."""

    hessian_regularization: Damping
    hessian_perturbation: float | None
    hessian_on: Choice | None


class Options(JobOptions, ComputationOptions, Parameters, total=False):
    """What all computations take: of the job, of its inversion method, and of the waiting."""


class VectorsOptions(AnyJobOptions, WaitOptions, total=False):
    """What gradients and products with a curvature take: fields of the job, and how to wait."""

    batch_size: int | Literal["auto"]
    precision: Literal["float32", "float64"] | None
    seed: int


class KeepOptions(TypedDict, total=False):
    """What is stored of the influences: `matrix` is by default, and the rest is not."""

    matrix: bool
    top: int
    mean: bool
    factors: bool


class InfluenceOptions(Options, total=False):
    """What `compute_influences` takes besides."""

    input_data: Choice | None
    influence_type: Literal["up", "perturbation"]
    train_rows: RowChoice | None
    test_rows: RowChoice | None
    train_where: Mapping[str, Any] | None
    test_where: Mapping[str, Any] | None
    aggregate: Aggregate | Mapping[str, Any] | None
    groups: Sequence[RowChoice] | None
    rescale: bool | None
    scores_by: ScoresBy | None
    perturb_at: str | None
    perturb_input: str | None
    factors: str | JobRecord | Result | AsyncResult | None
    keep: KeepOptions | Mapping[str, Any] | None
