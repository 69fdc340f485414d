"""HTTP for results."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query, Response
from fastapi.responses import HTMLResponse, JSONResponse

from service.answers.formats import (
    BINARY_CONTENT,
    NPY_CONTENT,
    Numbers,
    as_json,
    chosen_format,
    npy_response,
)
from service.answers.positions import positions
from service.answers.streamed import STREAMED
from service.dependencies import PartsNow, Reader
from service.problems import EVERYWHERE, documented
from service.results import listing, predictions, ranking, slices
from service.results.bm25 import bm25 as ranked_by_words
from service.results.partial import find_readable, refuse_unfinished
from service.results.report_page import POLICY, Retraining, page
from service.results.stored import (
    Layers,
    StoredResult,
    chosen_layers,
    find_result,
    one_layer,
)
from service.results.suspects import suspects as ranked_suspects
from service.results.texts import with_texts
from upweight.errors import (
    InvalidRequest,
    NotAcceptable,
    NotFound,
    NotStored,
    ResultExpired,
    ResultNotReady,
)
from upweight.schema import (
    Bm25Ranking,
    Files,
    InfluenceSlice,
    Info,
    PredictedRows,
    Ranking,
    ScoresBy,
    Sign,
    Suspects,
)

router = APIRouter(
    prefix="/v1/jobs/{id}",
    tags=["Results"],
    responses=documented(*EVERYWHERE, NotFound, NotStored, ResultExpired, ResultNotReady),
)
_NUMBERS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The numbers.",
        "content": {
            **BINARY_CONTENT,
            "application/json": {"schema": {"type": "array", "items": {}}},
        },
    },
    **documented(NotAcceptable),
}


def _found(id: str, parts: PartsNow, caller: Reader) -> StoredResult:
    return find_result(parts, caller.namespace, id)


def _readable(id: str, parts: PartsNow, caller: Reader) -> StoredResult:
    return find_readable(parts, caller.namespace, id)


Result = Annotated[StoredResult, Depends(_found)]
Readable = Annotated[StoredResult, Depends(_readable)]
Accept = Annotated[str | None, Header(include_in_schema=False)]
Axis = Annotated[
    str | None,
    Query(
        max_length=20_000,
        description="Positions as slices and single numbers: `0:10`, `3,5`. All when left out.",
        examples=["0:10"],
    ),
]


Damping = Annotated[
    float | None,
    Query(
        ge=0.0,
        allow_inf_nan=False,
        description="One λ of a list, by its value: the answer has no axis λ then.",
    ),
]


@dataclass(frozen=True)
class AskedLayers:
    """Which λ's of a list a request is about: all where nothing is said."""

    damping: float | None
    index: str | None

    def of(self, result: StoredResult) -> Layers:
        """Raises InvalidRequest."""
        return chosen_layers(result, self.damping, self.index)

    def one_of(self, result: StoredResult) -> Layers:
        """Raises InvalidRequest where there are several."""
        return one_layer(result, self.damping, self.index)


def _asked(damping: Damping = None, damping_index: Axis = None) -> AskedLayers:
    return AskedLayers(damping, damping_index)


Asked = Annotated[AskedLayers, Depends(_asked)]


@router.get(
    "/influences",
    summary="Read a slice of the influence matrix",
    response_model=InfluenceSlice,
    responses={
        200: {"description": "The slice.", "content": BINARY_CONTENT},
        **documented(NotAcceptable),
    },
)
def influences(
    result: Readable,
    asked: Asked,
    test: Axis = None,
    train: Axis = None,
    by: Annotated[
        ScoresBy,
        Query(
            description="Of a job with such `scores_by` the parts that add up to each influence, along further axes: "
            "`layer`, in the order of the record's `result.layers`, or `token`."
        ),
    ] = "row",
    accept: Accept = None,
) -> Response:
    """A slice of the matrix: rows `test` and columns `train`, as npy or, when it is small, as JSON.

    Of a list of λ's the first axis is λ, unless `damping` says which.

    While a job is at work in blocks, slices of those that are done; for others 425 with the `progress`.
    """
    if by == "row":
        result.require("matrix")
    rows = positions(test, result.influence_shape[0], "test")
    columns = positions(train, result.influence_shape[1], "train")
    refuse_unfinished(result, rows, columns)
    layers = asked.of(result)
    if by == "row":
        numbers = slices.influences(result, layers, rows, columns)
    else:
        numbers = slices.parts(result, by, layers, rows, columns)
    # JSON names the rows and columns, too, though the slice between them be empty.
    count = max(numbers.count, len(rows) + len(columns))
    format = chosen_format(accept, count, result.parts.settings.json_numbers)
    if format != "json":
        return STREAMED[format](numbers)
    test_rows, train_rows = result.test_rows(), result.train_rows()
    dampings = result.dampings or []
    answer = InfluenceSlice(
        dampings=[dampings[at] for at in layers.numbers or ()] if layers.axis else None,
        test=[test_rows[row] for row in rows],
        train=[train_rows[column] for column in columns],
        test_ids=result.ids("test", [test_rows[row] for row in rows]),
        train_ids=result.ids("train", [train_rows[column] for column in columns]),
        shape=list(numbers.shape),
        layers=result.summary.layers if by == "layer" else None,
        values=as_json(numbers.whole()),
    )
    return JSONResponse(answer.model_dump())


@router.get("/top", summary="Rank the training rows")
def top(
    result: Result,
    asked: Asked,
    test: Annotated[
        int | None,
        Query(
            description="Row of the matrix; left out: the mean over all, or for kind `self_influences` the influence "
            "of each row on itself."
        ),
    ] = None,
    k: Annotated[int, Query(ge=1, le=100_000)] = 20,
    sign: Annotated[
        Sign | None,
        Query(
            description="`helpful` (the default) or `harmful`; or `lowers` or `raises`, of whatever the job "
            "measures: a positive influence lowers it. What raises a margin is helpful; of the logit of a class that "
            "is not the label's only `raises`, the default, and `lowers` have a meaning."
        ),
    ] = None,
    words: Annotated[
        bool,
        Query(description="With the text of each row, of a dataset of tokens; at most 1000 rows."),
    ] = False,
) -> Ranking:
    """The training rows that helped or harmed most, the strongest first; of a list of λ's with one of them."""
    layers = asked.one_of(result)
    found = ranking.ranking(result, layers, test, k, sign)
    return with_texts(result, found) if words else found


@router.get("/bm25", summary="Rank the training rows by shared words")
def bm25(
    result: Result,
    test: Annotated[
        int | None,
        Query(
            description="Row of the matrix, or group of test rows; left out: the mean over all test rows."
        ),
    ] = None,
    k: Annotated[int, Query(ge=1, le=100_000)] = 20,
    words: Annotated[
        bool, Query(description="With the text of each row; at most 1000 rows.")
    ] = False,
) -> Bm25Ranking:
    """Of rows of tokens: the training rows that share the most telling ones with test rows, to hold beside `top`.

    The scores are BM25's, of the tokens alone: no model is asked, and they are no influences. Left out are tokens where
    an input `attention_mask` is 0, and padding, where a vocabulary says which token that is.
    """
    found = ranked_by_words(result, test, k)
    return with_texts(result, found) if words else found


@router.get("/suspects", summary="Rank the training rows whose labels deserve a look")
def suspects(
    result: Result,
    asked: Asked,
    offset: Annotated[int, Query(ge=0, le=2**53, description="Rows to leave out.")] = 0,
    limit: Annotated[int, Query(ge=1, le=100_000, description="Rows at most.")] = 50,
) -> Suspects:
    """Training rows with a score, their label and what the model predicts; the most suspect first.

    Those of most influence on themselves, for kind `self_influences`; else those of the most harmful mean influence
    on the test rows.
    """
    layers = asked.one_of(result)
    return ranked_suspects(result, layers, offset, limit)


@router.get("/mean", summary="Read the mean influence of each training row", responses=_NUMBERS)
def mean(
    result: Result,
    asked: Asked,
    accept: Accept = None,
) -> Response:
    """The mean influence of each training row over the test rows."""
    layers = asked.of(result)
    return _numbers(result, slices.mean(result, layers), accept)


@router.get("/rescaled", summary="Read what removing sets of rows does", responses=_NUMBERS)
def rescaled(
    result: Result,
    asked: Asked,
    accept: Accept = None,
) -> Response:
    """Of a job with `groups`: a row a test row, a column a set, at the curvature that is left without the set."""
    layers = asked.of(result)
    return _numbers(result, slices.rescaled(result, layers), accept)


@router.get("/self_influences", summary="Read self-influences", responses=_NUMBERS)
def self_influences(
    result: Result,
    asked: Asked,
    accept: Accept = None,
) -> Response:
    """The influence of each training row on itself."""
    layers = asked.of(result)
    return _numbers(result, slices.self_influences(result, layers), accept)


@router.get("/rows", summary="Read losses and predictions of rows")
def rows(
    result: Result,
    side: predictions.Side = "test",
    rows: Axis = None,
    sort: Annotated[
        predictions.Sort,
        Query(description="`-` in front: the largest first. Of no effect together with `rows`."),
    ] = "position",
    offset: Annotated[int, Query(ge=0, le=1_000_000, description="Rows to leave out.")] = 0,
    limit: Annotated[int, Query(ge=1, le=1000, description="Rows at most.")] = 50,
) -> PredictedRows:
    """The model's loss, prediction and target of each row: at positions, or sorted."""
    found = predictions.Predictions.of(result, side)
    if rows is None:
        return found.ordered(sort, offset, limit)
    chosen = positions(rows, found.total(), "rows")
    if len(chosen) > limit:
        words = f"{len(chosen)} rows are more than limit={limit} (at most 1000); ask for fewer"
        raise InvalidRequest.field("query:rows", words, rows)
    return found.at(chosen)


@router.get("/factors", summary="Read factors", responses=_NUMBERS)
def factors(
    result: Result,
    asked: Asked,
    rows: Axis = None,
    accept: Accept = None,
) -> Response:
    """The factors (H + λI)⁻¹ b: a row a test row, or a row a right-hand side."""
    return _vectors(result, "factors", asked, rows, accept)


@router.get("/gradients", summary="Read gradients", responses=_NUMBERS)
def gradients(
    result: Result,
    asked: Asked,
    rows: Axis = None,
    accept: Accept = None,
) -> Response:
    """Of kind `gradients`: a row a row of the dataset, a column a parameter."""
    return _vectors(result, "gradients", asked, rows, accept)


@router.get("/products", summary="Read products with the curvature", responses=_NUMBERS)
def products(
    result: Result,
    asked: Asked,
    rows: Axis = None,
    accept: Accept = None,
) -> Response:
    """Of kind `hvp`: (C + λI) v, a row a vector."""
    return _vectors(result, "products", asked, rows, accept)


def _vectors(
    result: StoredResult, name: str, asked: AskedLayers, rows: str | None, accept: str | None
) -> Response:
    result.require(name)
    chosen = positions(rows, result.factor_shape[0], "rows")
    return _numbers(result, slices.vectors(result, name, asked.of(result), chosen), accept)


@router.get(
    "/info",
    summary="Show what the inversion did",
    response_model=Info,
    responses={200: {"content": NPY_CONTENT}},
)
def info(
    result: Result,
    array: Annotated[
        str | None, Query(max_length=200, description="Name of one array, answered as npy.")
    ] = None,
) -> Response:
    """What the inversion says of itself; its arrays by name."""
    if array is not None:
        return npy_response(listing.info_array(result, array))
    return JSONResponse(listing.info(result).model_dump(mode="json"))


@router.get("/report", summary="Get the report of a job")
def report(result: Result) -> dict[str, Any]:
    """What the job found that is no array: of a retraining the model's metrics, before and after."""
    return listing.report(result)


@router.get(
    "/report.html",
    summary="Show what a retraining changed, as a page",
    response_class=HTMLResponse,
    responses={200: {"content": {"text/html": {"schema": {"type": "string"}}}}},
)
def report_page(result: Result) -> HTMLResponse:
    """Loss and accuracy before and after, by class too, as a page that needs nothing else: no script, no address."""
    found = Retraining.of(result.parts, result.namespace, result.job)
    headers = {
        "Content-Security-Policy": POLICY,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
    }
    return HTMLResponse(page(found), headers=headers)


@router.get("/files", summary="List the files of a result")
def files(result: Result) -> Files:
    """All objects of the result, with presigned URLs where the storage can sign."""
    return listing.files(result)


def _numbers(result: StoredResult, numbers: Numbers, accept: str | None) -> Response:
    format = chosen_format(accept, numbers.count, result.parts.settings.json_numbers)
    if format != "json":
        return STREAMED[format](numbers)
    return JSONResponse(as_json(numbers.whole()))
