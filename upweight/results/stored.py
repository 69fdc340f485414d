"""What a job has stored and where it is; the flows that fetch it. Shared by blocking and awaited results."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from upweight.errors import InvalidRequest, NotStored, ResultNotReady
from upweight.http.flow import Call, Flow
from upweight.http.polling import ended, path, succeeded
from upweight.progress import Bars
from upweight.results.rows import record_of
from upweight.results.saving import Axis, Labelled
from upweight.results.source import ArraySource
from upweight.schema import (
    ArraySpec,
    Files,
    InfluencesJob,
    Info,
    JobRecord,
    PredictedRows,
    Ranking,
    ResultSummary,
    Selection,
    parse_rows,
)

Sign = Literal["helpful", "harmful"]
Side = Literal["test", "train"]
ARRAYS = ("influences", "mean", "factors")  # that can be saved, the main one first


def summary(record: JobRecord) -> ResultSummary:
    """The shapes of a job's result; raises what it failed of, or ResultNotReady."""
    if not ended(record):
        raise ResultNotReady(f"{record.id} is {record.state}; wait for it: result.wait()")
    succeeded(record)
    if record.result is None:
        raise NotStored(f"{record.id} stored no result")
    return record.result


def influences(record: JobRecord) -> ArraySource:
    """The matrix: a row a test row, a column a training row, and the input's shape for `perturbation`.

    Of a job at work in blocks, too: slices of those that are done, others raise ResultNotReady with the progress.
    """
    stored = _promised(record) or summary(record)
    if record.request.is_self:
        shape = tuple(stored.influence_shape or ())
        return ArraySource(f"{path(record.id)}/self_influences", "influences", shape, stored.dtype)
    if record.request.kind != "influences":
        raise NotStored(f"{record.id} computed {record.request.kind}, no influences")
    if "matrix" not in stored.stored or stored.influence_shape is None:
        raise NotStored(
            f"{record.id} kept {_listed(stored.stored)}, not the matrix; ask for it with keep={{'matrix': True}}"
        )
    return ArraySource(
        f"{path(record.id)}/influences",
        "influences",
        tuple(stored.influence_shape),
        stored.dtype,
        axes=("test", "train"),
    )


def _promised(record: JobRecord) -> ResultSummary | None:
    """What a job at work in blocks will have of its matrix."""
    plan: Any = record.plan
    request = record.request
    if ended(record) or plan is None or not isinstance(request, InfluencesJob):
        return None
    return ResultSummary(
        influence_shape=[plan["test"]["total"], plan["train"]["total"], *plan["trailing"]],
        dtype="float64" if request.precision == "float64" else "float32",
        stored=["matrix"] if request.keep.matrix else [],
        size_bytes=0,
    )


def factors(record: JobRecord) -> ArraySource:
    """The factors: a row a test row or right-hand side, a column a parameter."""
    stored = summary(record)
    if "factors" not in stored.stored or stored.factor_shape is None:
        raise NotStored(
            f"{record.id} kept {_listed(stored.stored)}, not the factors; ask for them with keep={{'factors': True}}"
        )
    where = f"{path(record.id)}/factors"
    return ArraySource(where, "factors", tuple(stored.factor_shape), stored.dtype, axes=("rows",))


def mean(record: JobRecord) -> ArraySource:
    """The mean influence of each training row over the test rows."""
    stored = summary(record)
    shape = tuple(stored.influence_shape or (0, 0))[1:]
    return ArraySource(f"{path(record.id)}/mean", "mean", shape, stored.dtype)


def info_array(record: JobRecord, spec: ArraySpec) -> ArraySource:
    """An array of the inversion's info."""
    where = f"{path(record.id)}/info"
    return ArraySource(
        where, spec.name, tuple(spec.shape), spec.dtype, query=(("array", spec.name),)
    )


def saveable(record: JobRecord, main: str | None = None) -> tuple[str, Mapping[str, ArraySource]]:
    """The main array's name, and all arrays that were kept. Raises NotStored for one that was not."""
    stored = summary(record).stored
    sources: dict[str, ArraySource] = {}
    if record.request.is_self or "matrix" in stored:
        sources["influences"] = influences(record)
    if "mean" in stored:
        sources["mean"] = mean(record)
    if "factors" in stored:
        sources["factors"] = factors(record)
    if main is not None and main not in ARRAYS:
        raise InvalidRequest.field(
            "/array", f"there is no array {main!r}; there are {', '.join(ARRAYS)}", main
        )
    if not sources or (main is not None and main not in sources):
        wanted = main or "no array to save; use top()"
        raise NotStored(f"{record.id} kept {_listed(stored)}: {wanted}")
    return main or next(iter(sources)), sources


def labelled(record: JobRecord, name: str) -> Flow[Labelled]:
    """The names of an array's axes, and the dataset rows that its positions stand for."""
    request = record.request
    test: Selection | None = getattr(request, "test", None)
    if name == "factors":
        if test is None:
            return Labelled((Axis("row"), Axis("parameter")), "value")
        rows = yield from _rows(test, record.test_id)
        return Labelled((Axis("test", rows), Axis("parameter")), "value")
    train = Axis("train", (yield from _rows(request.train, record.train_id)))
    if name == "mean" or request.is_self:
        return Labelled((train,))
    if test is None:  # of factors for right-hand sides of their own
        return Labelled((Axis("row"), train))
    return Labelled((Axis("test", (yield from _rows(test, record.test_id))), train))


def _rows(chosen: Selection, dataset_id: str | None) -> Flow[NDArray[np.int64] | None]:
    """The dataset's rows that were chosen; None: all of them."""
    if chosen.rows is None:
        return None
    dataset = yield from record_of(dataset_id or chosen.dataset)
    parts = parse_rows(chosen.rows, dataset.rows or 0).parts
    return np.concatenate([np.arange(part.start, part.stop, part.step) for part in parts])


def info(record: JobRecord) -> Flow[Info]:
    """What the inversion says of itself."""
    summary(record)
    reply = yield Call("GET", f"{path(record.id)}/info")
    return reply.read(Info)


def files(record: JobRecord) -> Flow[Files]:
    """The result's objects."""
    summary(record)
    reply = yield Call("GET", f"{path(record.id)}/files")
    return reply.read(Files)


def top(record: JobRecord, test: int | None, k: int, sign: Sign) -> Flow[Ranking]:
    """The k strongest training rows of a sign, for a test row or for the mean over all."""
    summary(record)
    query = [("k", str(k)), ("sign", sign)]
    if test is not None:
        query.append(("test", str(test)))
    reply = yield Call("GET", f"{path(record.id)}/top", query)
    return reply.read(Ranking)


def rows(
    record: JobRecord, chosen: str | None, side: Side, sort: str, offset: int, limit: int
) -> Flow[PredictedRows]:
    """The model's loss, prediction and target of each row, at positions or sorted. Raises NotStored."""
    summary(record)
    query = [("side", side), ("limit", str(limit))]
    query += [("rows", chosen)] if chosen is not None else [("sort", sort), ("offset", str(offset))]
    reply = yield Call("GET", f"{path(record.id)}/rows", query)
    return reply.read(PredictedRows)


def suspects(record: JobRecord, bars: Bars) -> Flow[NDArray[np.int64]]:
    """Training rows, those first whose labels deserve a look: the most harmful, or of most influence on themselves."""
    own = record.request.is_self
    source = influences(record) if own else mean(record)
    scores = yield from source.fetched(..., bars)
    if scores.ndim != 1:
        raise InvalidRequest("perturbations have a number a feature: they rank no rows")
    named = yield from labelled(record, "mean")
    return named.axes[0].labels(np.argsort(-scores if own else scores, kind="stable"))


def _listed(stored: list[str]) -> str:
    return ", ".join(stored) or "nothing"
