"""What a job has stored and where it is; the flows that fetch it. Shared by blocking and awaited results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Generic, Literal, TypeVar

from pydantic import TypeAdapter

from upweight.errors import InvalidRequest, NotStored, ResultNotReady
from upweight.http.flow import Call, Flow
from upweight.http.polling import ended, path, succeeded
from upweight.http.transport import AsyncTransport, Transport
from upweight.progress import Bars
from upweight.results.source import ArraySource
from upweight.results.suspects import SuspectTable
from upweight.results.tables import Bm25Ranking, PredictedRows, Ranking
from upweight.schema import (
    ArraySpec,
    Estimate,
    Files,
    InfluencesJob,
    Info,
    JobRecord,
    ResultSummary,
    Sign,
    Suspects,
)
from upweight.schema.damping import entries, numbers

Side = Literal["test", "train"]
SAME_DAMPING = 1e-6  # of a λ: what is written with a few digits less is the same
Link = TypeVar("Link", Transport, AsyncTransport)
_REPORT: TypeAdapter[dict[str, Any]] = TypeAdapter(dict[str, Any])
SUSPECTS_AT_ONCE = 20_000  # rows of one answer
VECTORS = ("factors", "gradients", "products")  # rows of p numbers, of which a job has one kind
# That can be saved, the main one first.
ARRAYS = ("influences", "mean", "rescaled", "by_layer", "by_token", *VECTORS)


def summary(record: JobRecord) -> ResultSummary:
    """The shapes of a job's result; raises what it failed of, or ResultNotReady."""
    if not ended(record):
        raise ResultNotReady(f"{record.id} is {record.state}; wait for it: result.wait()")
    succeeded(record)
    if record.result is None:
        raise NotStored(f"{record.id} stored no result")
    return record.result


class SeenAt(JobRecord):
    """A job with several λ's as if it had had this one alone."""

    seen_at: float


def dampings(record: JobRecord) -> tuple[float, ...]:
    """The λ's as numbers, in the order of the axis λ where the result has one. Raises ResultNotReady."""
    found = summary(record)
    if found.dampings is not None:
        return tuple(found.dampings)
    if record.damping is not None:
        return tuple(record.damping.values)
    return record.request.dampings


def at(record: JobRecord, damping: float) -> JobRecord:
    """With one of its λ's. Raises InvalidRequest, which names those that there are."""
    there = dampings(record)
    near = min(there, key=lambda each: abs(each - damping))
    if not abs(near - damping) <= SAME_DAMPING * abs(near):
        raise InvalidRequest.field(
            "/damping", f"{damping!r} is no λ of it; there are {_told(there)}", damping
        )
    found = summary(record)
    if found.dampings is None:
        return record
    one = found.model_copy(
        update={
            "dampings": None,
            "influence_shape": found.influence_shape and found.influence_shape[1:],
            "factor_shape": found.factor_shape and found.factor_shape[1:],
        }
    )
    fields = {name: getattr(record, name) for name in JobRecord.model_fields}
    request = record.request.model_copy(update={"hessian_regularization": near})
    return SeenAt.model_construct(
        **{**fields, "result": one, "request": request, "damping": None}, seen_at=near
    )


def one(record: JobRecord) -> JobRecord:
    """Itself, if it has one λ. Raises InvalidRequest, which says how to take one of several."""
    found = _promised(record) or record.result
    if found is not None and found.dampings is not None:
        first = found.dampings[0]
        raise InvalidRequest.field(
            "/damping",
            f"{record.id} has {len(found.dampings)} λ's ({_told(found.dampings)}); take one of them: "
            f"result.at(damping={first!r})",
            None,
        )
    return record


def _told(values: Sequence[float]) -> str:
    return ", ".join(map(repr, values))


def _query(record: JobRecord) -> tuple[tuple[str, str], ...]:
    """What chooses the λ that the job is seen at."""
    return (("damping", repr(record.seen_at)),) if isinstance(record, SeenAt) else ()


def _axes(stored: ResultSummary, *names: str) -> tuple[str, ...]:
    """Those that the service slices; before them λ, where there are several."""
    return names if stored.dampings is None else ("damping_index", *names)


def influences(record: JobRecord) -> ArraySource:
    """The matrix: a row a test row, a column a training row, and the input's shape for `perturbation`.

    With several λ's these are the first axis. Of a job at work in blocks, too: slices of those that are done, others
    raise ResultNotReady with the progress.
    """
    stored = _promised(record) or summary(record)
    query = _query(record)
    if record.request.is_self:
        shape, where = tuple(stored.influence_shape or ()), f"{path(record.id)}/self_influences"
        return ArraySource(where, "influences", shape, stored.dtype, _axes(stored), query)
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
        _axes(stored, "test", "train"),
        query,
    )


def _promised(record: JobRecord) -> ResultSummary | None:
    """What a job at work in blocks will have of its matrix."""
    plan: Any = record.plan
    request = record.request
    if ended(record) or plan is None or not isinstance(request, InfluencesJob):
        return None
    if request.tabulates:
        return None  # sums are there at the end
    shape = [plan["test"]["total"], plan["train"]["total"], *plan["trailing"]]
    several = None
    if request.has_damping_axis:
        asked = request.hessian_regularization
        several = list(numbers(asked)) if record.damping is None else record.damping.values
        if len(several) != len(entries(asked)):
            return None  # worked out from the fit, and known at the end
        shape = [len(several), *shape]
    return ResultSummary(
        influence_shape=shape,
        dampings=several,
        dtype="float64" if request.precision == "float64" else "float32",
        stored=["matrix"] if request.keep.matrix else [],
        size_bytes=0,
    )


def factors(record: JobRecord) -> ArraySource:
    """The factors: a row a test row or right-hand side, a column a parameter; before them λ, where it is several."""
    stored = summary(record)
    if "factors" not in stored.stored or stored.factor_shape is None:
        raise NotStored(
            f"{record.id} kept {_listed(stored.stored)}, not the factors; ask for them with keep={{'factors': True}}"
        )
    return _vectors(record, "factors")


def vectors(record: JobRecord) -> ArraySource:
    """The factors, gradients or products of a job that is for these. Raises NotStored."""
    found = next((each for each in VECTORS if each in summary(record).stored), None)
    return factors(record) if found is None else _vectors(record, found)


def _vectors(record: JobRecord, name: str) -> ArraySource:
    stored = summary(record)
    where, shape = f"{path(record.id)}/{name}", tuple(stored.factor_shape or ())
    return ArraySource(where, name, shape, stored.dtype, _axes(stored, "rows"), _query(record))


def mean(record: JobRecord) -> ArraySource:
    """The mean influence of each training row over the test rows; before them λ, where it is several."""
    stored = summary(record)
    shape = tuple(stored.influence_shape or (0, 0))
    shape = shape[1:] if stored.dampings is None else (shape[0], *shape[2:])
    where = f"{path(record.id)}/mean"
    return ArraySource(where, "mean", shape, stored.dtype, _axes(stored), _query(record))


def rescaled(record: JobRecord) -> ArraySource:
    """What removing each set of training rows does at the curvature without it: a row a test row, a column a set."""
    stored = summary(record)
    if "rescaled" not in stored.stored:
        raise NotStored(
            f"{record.id} removed no sets of rows; ask for groups=[…], and leave rescale on"
        )
    where, shape = f"{path(record.id)}/rescaled", tuple(stored.influence_shape or ())
    return ArraySource(where, "rescaled", shape, stored.dtype, _axes(stored), _query(record))


def parts(record: JobRecord, by: Literal["layer", "token"]) -> ArraySource:
    """The parts that add up to each influence: (test rows, training rows, parts…); before them λ, where it is
    several."""
    stored = summary(record)
    if f"by_{by}" not in stored.stored or stored.part_shape is None:
        raise NotStored(f"{record.id} has no scores by {by}; ask for scores_by={by!r}")
    shape = (*(stored.influence_shape or ()), *stored.part_shape)
    query = (("by", by), *_query(record))
    where, axes = f"{path(record.id)}/influences", _axes(stored, "test", "train")
    return ArraySource(where, f"by_{by}", shape, stored.dtype, axes, query)


def layer_names(record: JobRecord) -> list[str]:
    """The modules that the last axis of scores by layer is over. Raises NotStored."""
    parts(record, "layer")
    return list(summary(record).layers or ())


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
    elif main == "mean" and "influences" in sources and not record.request.is_self:
        sources["mean"] = mean(record)  # the service takes it of the matrix
    if "rescaled" in stored:
        sources["rescaled"] = rescaled(record)
    splits: tuple[Literal["layer", "token"], ...] = ("layer", "token")
    sources |= {f"by_{by}": parts(record, by) for by in splits if f"by_{by}" in stored}
    sources |= {each: _vectors(record, each) for each in VECTORS if each in stored}
    if main is not None and main not in ARRAYS:
        raise InvalidRequest.field(
            "/array", f"there is no array {main!r}; there are {', '.join(ARRAYS)}", main
        )
    if main is not None and main not in sources:
        raise NotStored(
            f"{record.id} did not keep its {main}, but {_listed(stored)}; ask for them with keep={{{main!r}: True}}"
        )
    if not sources:
        raise NotStored(f"{record.id} kept {_listed(stored)}, and no array to save; use top()")
    return main or next(iter(sources)), sources


def info(record: JobRecord) -> Flow[Info]:
    """What the inversion says of itself."""
    summary(record)
    reply = yield Call("GET", f"{path(record.id)}/info")
    return reply.read(Info)


def report(record: JobRecord) -> Flow[dict[str, Any]]:
    """What it found that is no array."""
    summary(record)
    reply = yield Call("GET", f"{path(record.id)}/report")
    return reply.read(_REPORT)


def files(record: JobRecord) -> Flow[Files]:
    """The result's objects."""
    summary(record)
    reply = yield Call("GET", f"{path(record.id)}/files")
    return reply.read(Files)


def top(
    record: JobRecord, test: int | None, k: int, sign: Sign | None, words: bool = False
) -> Flow[Ranking]:
    """The k strongest training rows of a sign, for a test row or for the mean over all; `words`: with their texts."""
    summary(one(record))
    query = [("k", str(k)), *_query(record), *([("words", "true")] if words else [])]
    if sign is not None:
        query.append(("sign", sign))
    if test is not None:
        query.append(("test", str(test)))
    reply = yield Call("GET", f"{path(record.id)}/top", query)
    return reply.read(Ranking).of(record)


def bm25(record: JobRecord, test: int | None, k: int, words: bool) -> Flow[Bm25Ranking]:
    """The k training rows of the highest BM25, for a test row or by mean over all. Raises NotStored."""
    summary(record)
    query = [("k", str(k)), *([("words", "true")] if words else [])]
    if test is not None:
        query.append(("test", str(test)))
    reply = yield Call("GET", f"{path(record.id)}/bm25", query)
    return reply.read(Bm25Ranking)


def rows(
    record: JobRecord, chosen: str | None, side: Side, sort: str, offset: int, limit: int
) -> Flow[PredictedRows]:
    """The model's loss, prediction and target of each row, at positions or sorted. Raises NotStored."""
    summary(record)
    query = [("side", side), ("limit", str(limit))]
    query += [("rows", chosen)] if chosen is not None else [("sort", sort), ("offset", str(offset))]
    reply = yield Call("GET", f"{path(record.id)}/rows", query)
    return reply.read(PredictedRows)


def suspects(record: JobRecord, k: int | None) -> Flow[SuspectTable]:
    """The k training rows whose labels deserve a look most, the most suspect first; None: all of them."""
    summary(one(record))
    if k is not None and k < 1:
        raise InvalidRequest.field("/k", "ask for one row at least, or leave it out for all", k)
    pages: list[Suspects] = []
    have = 0
    while True:
        limit = SUSPECTS_AT_ONCE if k is None else min(SUSPECTS_AT_ONCE, k - have)
        query = [("offset", str(have)), ("limit", str(limit)), *_query(record)]
        reply = yield Call("GET", f"{path(record.id)}/suspects", query)
        page = reply.read(Suspects)
        pages.append(page)
        have += len(page.items)
        if not page.items or have >= page.total or have == k:
            return SuspectTable.of(pages)


def _listed(stored: list[str]) -> str:
    return ", ".join(stored) or "nothing"


class Handle(Generic[Link]):
    """A job, and by what its result is fetched: what blocking and awaited results have in common."""

    def __init__(self, link: Link, bars: Bars, job: JobRecord) -> None:
        self._link: Link = link
        self._bars, self._job = bars, job

    @property
    def job(self) -> JobRecord:
        """The job's record as it was last seen."""
        return self._job

    @property
    def id(self) -> str:
        """The job's id."""
        return self._job.id

    @property
    def estimate(self) -> Estimate | None:
        """What the job was expected to take: `seconds`, `bytes`, `memory_bytes`. A dry run has nothing else."""
        return self._job.estimate

    @property
    def url(self) -> str:
        """Its page in the explorer."""
        return f"{self._link.connection.url}/#/jobs/{self.id}"

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id} {self._job.state} {self.url}>"
