"""What a job has stored and where it is; the flows that fetch it. Shared by blocking and awaited results."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from upweight.array import ArraySource
from upweight.errors import NotStored, ResultNotReady
from upweight.exchange import Call, Flow
from upweight.schema import ArraySpec, Files, Info, JobRecord, Ranking, ResultSummary
from upweight.tracking import ended, path, succeeded

Sign = Literal["helpful", "harmful"]


def summary(record: JobRecord) -> ResultSummary:
    """The shapes of a job's result; raises what it failed of, or ResultNotReady."""
    if not ended(record):
        raise ResultNotReady(f"{record.id} is {record.state}; wait for it: result.wait()")
    succeeded(record)
    if record.result is None:
        raise NotStored(f"{record.id} stored no result")
    return record.result


def influences(record: JobRecord) -> ArraySource:
    """The matrix: a row a test row, a column a training row, and the input's shape for `perturbation`."""
    stored = summary(record)
    if record.request.kind == "self_influences":
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


def saveable(record: JobRecord) -> tuple[str, Mapping[str, ArraySource]]:
    """The main array's name, and all arrays that go into an .npz."""
    stored = summary(record).stored
    kind = record.request.kind
    sources: dict[str, ArraySource] = {}
    if kind == "self_influences" or "matrix" in stored:
        sources["influences"] = influences(record)
    if "mean" in stored:
        sources["mean"] = mean(record)
    if "factors" in stored:
        sources["factors"] = factors(record)
    if not sources:
        raise NotStored(f"{record.id} kept {_listed(stored)}: no array to save; use top()")
    return next(iter(sources)), sources


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


def _listed(stored: list[str]) -> str:
    return ", ".join(stored) or "nothing"
