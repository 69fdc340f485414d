"""Quality from the SDK: results held against retraining, and a sweep that says which method and λ to use."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict

from upweight.client.computations import Model, influences
from upweight.client.jobs import create
from upweight.client.request import Choice, named_ids, reference
from upweight.errors import InvalidRequest, UpweightError
from upweight.http.flow import Call, Flow
from upweight.http.polling import failure, fetch, until_ended, waited_for
from upweight.progress import Bars
from upweight.results.quality import QualityTable, Tuning
from upweight.results.rows import RowChoice, rows_text
from upweight.results.stored import report
from upweight.schema import JobRecord, Measure, QualityJob, QualityReport, QualityRow, Selection

# λ's of a sweep, as parts of the mean eigenvalue: what is best lies within them for networks of the benchmarks.
PARTS = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
MOST_FOR_DIRECT = 3000  # parameters whose matrix takes seconds to build and factorise
ITERATED: Mapping[str, Any] = {
    "inversion_method": "cg",
    "curvature": "gauss_newton",
    "preconditioner": {"structure": "ekfac"},
    "rtol": 1e-4,
    "maxiter": 200,
}
EXACT: Mapping[str, Any] = {"inversion_method": "direct", "curvature": "gauss_newton"}
CLOSED_FORM: Mapping[str, Any] = {"inversion_method": "ekfac", "curvature": "gauss_newton"}


_NAMED = ("measure", "subsets", "share", "seed")  # arguments of their own


class QualityOptions(TypedDict, total=False):
    """What `evaluate` and `tune` take besides: of the measures, of the job, and of the waiting."""

    repeats: int | None
    left_out: int | None
    k: int | None
    queries: int | None
    wrong: RowChoice | None
    baselines: bool
    recipe: Mapping[str, Any] | None
    precision: Literal["float32", "float64"] | None
    labels: Mapping[str, str]
    name: str
    note: str
    priority: Literal["high", "default", "low"]
    timeout_s: int | None
    columns: Mapping[str, str]
    blocks: Mapping[str, Any]
    timeout: float | None
    progress: bool | None


def evaluate(
    bars: Bars,
    hold: float,
    results: Any,
    measure: Measure | Sequence[Measure],
    subsets: int,
    share: float,
    seed: int,
    options: QualityOptions,
) -> Flow[QualityTable]:
    """The table of a quality job over results that are there."""
    _refuse_unknown(options)
    several = results if isinstance(results, list | tuple) else [results]
    if not several:
        raise InvalidRequest.field("/results", "give one result or more", None)
    ids = [_id(each) for each in several]
    first: JobRecord = yield from fetch(ids[0])
    fields: dict[str, Any] = {
        "kind": "quality",
        "model": first.model_id,
        "results": ids,
        "measures": [measure] if isinstance(measure, str) else list(measure),
        "train": _selected(first.train_id, first.request.train),
        "subsets": subsets,
        "share": share,
        "seed": seed,
    }
    test = getattr(first.request, "test", None)
    if test is not None and first.test_id is not None:
        fields["test"] = _selected(first.test_id, test)
    fields |= {
        name: value
        for name, value in options.items()
        if name in QualityJob.model_fields and value is not None
    }
    if options.get("wrong") is not None:
        fields["wrong"] = _named(options["wrong"])
    record = yield from create(fields)
    record = yield from until_ended(
        record.id, bars, record=record, timeout=options.get("timeout"),
        progress=options.get("progress"), hold=hold,
    )  # fmt: skip
    return (yield from table(waited_for(record)))


def _refuse_unknown(options: Mapping[str, Any]) -> None:
    """Raises InvalidRequest for an option that there is not, with the nearest."""
    known = QualityOptions.__annotations__
    for name in options:
        if name not in known:
            near = difflib.get_close_matches(name, [*_NAMED, *known], n=1)
            meant = f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join(known)}"
            raise InvalidRequest.field(f"/{name}", f"there is no option {name!r}{meant}", None)


def table(record: JobRecord) -> Flow[QualityTable]:
    """Of a quality job that has succeeded."""
    found = yield from report(record)
    return QualityTable(QualityReport.model_validate(found), record.id)


def tune(
    bars: Bars,
    hold: float,
    model: Model,
    train: Choice,
    test: Choice,
    methods: Sequence[str | Mapping[str, Any]] | None,
    dampings: Sequence[Any] | None,
    measure: Measure,
    subsets: int,
    share: float,
    seed: int,
    train_rows: RowChoice | None,
    test_rows: RowChoice | None,
    options: QualityOptions,
) -> Flow[Tuning]:
    """Influences by each method at each λ, held against retraining on one bank."""
    _refuse_unknown(options)
    given = list(methods) if methods is not None else (yield from _usual(model))
    sweeps = [{"inversion_method": each} if isinstance(each, str) else dict(each) for each in given]
    over = [{"relative": part} for part in PARTS] if dampings is None else list(dampings)
    shared: dict[str, Any] = {
        name: options[name]
        for name in ("precision", "labels", "name", "note", "priority", "columns")
        if name in options
    }
    begun: list[tuple[dict[str, Any], JobRecord]] = []
    left_out: list[str] = []
    for sweep in sweeps:
        arguments: dict[str, Any] = {
            "hessian_regularization": over,
            "seed": seed,
            **shared,
            **sweep,
        }
        method = arguments.pop("inversion_method", None)
        try:
            record = yield from influences(
                bars, hold, model, train, test, method, train_rows=train_rows,
                test_rows=test_rows, keep={"matrix": True}, wait=False, **arguments,
            )  # fmt: skip
        except InvalidRequest as error:
            left_out.append(f"{_told(sweep)} is left out: {error.detail}")
        else:
            begun.append((sweep, record))
    done: dict[str, tuple[dict[str, Any], JobRecord]] = {}
    for sweep, record in begun:
        ended = yield from until_ended(
            record.id, bars, record=record, timeout=options.get("timeout"),
            progress=options.get("progress"), hold=hold,
        )  # fmt: skip
        failed = failure(ended)
        if failed is None:
            done[record.id] = (sweep, ended)
        else:
            left_out.append(f"{_told(sweep)} is left out: {failed}")
    if not done:
        raise InvalidRequest("no method gave a result: " + "; ".join(left_out))
    found = yield from evaluate(bars, hold, [*done], measure, subsets, share, seed, options)
    return chosen(found, done, measure, left_out)


def chosen(
    found: QualityTable,
    done: Mapping[str, tuple[Mapping[str, Any], JobRecord]],
    measure: str,
    left_out: Sequence[str],
) -> Tuning:
    """Which method and λ to use, and why: the best by the measure."""
    best = found.best(measure)
    if best is None:
        reason = next((row.note for row in found.rows if row.note), "nothing was measured")
        raise UpweightError(f"no result has a value of {measure}: {reason}")
    sweep, _ = done[best.result]
    value = best.value or 0.0
    alike = [
        row
        for row in found.rows
        if row.measure == measure
        and not row.baseline
        and row is not best
        and row.value is not None
        and best.low is not None
        and row.value >= best.low
    ]
    plain = max(
        (row for row in found.rows if row.measure == measure and row.baseline),
        key=lambda row: row.value if row.value is not None else float("-inf"),
        default=None,
    )
    why = f"Use {best.method} with λ = {best.damping:g}: {measure} {_interval(best)}"
    if alike:
        why += f"; {len(alike)} others lie within its interval"
    if plain is not None and plain.value is not None:
        better = "above" if value > plain.value else "NOT above"
        why += f"; {better} the best baseline, {plain.result} ({plain.value:.3f})"
    edge = [row.damping for row in found.rows if row.result == best.result]
    if len(set(edge)) > 1 and best.damping in (min(edge), max(edge)):  # type: ignore[type-var]
        why += "; it is the last λ of the sweep, so a wider one may find better"
    return Tuning(found, {**sweep, "hessian_regularization": best.damping}, f"{why}.", left_out)


def _usual(model: Model) -> Flow[list[Mapping[str, Any]]]:
    """Gauss-Newton exactly where it is small enough, else by iteration; EK-FAC beside."""
    reply = yield Call("GET", f"/v1/models/{reference(model)}")
    from upweight.schema import ModelRecord

    size = reply.read(ModelRecord).parameter_count or 0
    return [EXACT if size <= MOST_FOR_DIRECT else ITERATED, CLOSED_FORM]


def _id(result: Any) -> str:
    """Of a handle, a record or an id."""
    own = getattr(result, "id", None)
    return own if isinstance(own, str) else reference(getattr(result, "job", result))


def _selected(id: str, selection: Selection) -> dict[str, Any]:
    found: dict[str, Any] = {"dataset": id}
    if selection.rows is not None:
        found["rows"] = selection.rows
    return found


def _named(rows: Any) -> str | list[Any]:
    """Rows as text; ids, where there are some, in a list."""
    ids = rows.get("ids") if isinstance(rows, Mapping) else named_ids(rows)
    return rows_text(rows) if ids is None else list(ids)


def _told(sweep: Mapping[str, Any]) -> str:
    words = [str(sweep.get("inversion_method", "direct"))]
    if sweep.get("curvature") is not None:
        words.append(str(sweep["curvature"]))
    return " of ".join(words)


def _interval(row: QualityRow) -> str:
    told = f"{row.value:.3f}"
    return (
        told if row.low is None or row.high is None else f"{told} [{row.low:.3f}, {row.high:.3f}]"
    )
