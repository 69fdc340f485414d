"""HTTP for datasets."""

from __future__ import annotations

import json
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Body, Depends, Header, Query, Response
from fastapi.responses import JSONResponse

from service.answers.formats import BINARY_CONTENT, chosen_format
from service.answers.positions import positions
from service.answers.streamed import STREAMED
from service.datasets.derivation import derive_dataset
from service.datasets.names import GroupColumn, RowNames
from service.datasets.preview import change_preview
from service.datasets.registration import register_dataset
from service.datasets.rows import ShardedRows
from service.dependencies import (
    IdempotencyKey,
    LabelQuery,
    PagingQuery,
    PartsNow,
    Reader,
    TraceNow,
    Wait,
    Writer,
    idempotency,
    json_only,
)
from service.docs.examples import DATASET_BLOB
from service.problems import EVERYWHERE, documented
from service.registry import delete_checked, filters_of, page_of, resolve, settled
from upweight.errors import (
    Conflict,
    IdempotencyConflict,
    InUse,
    InvalidRequest,
    NotAcceptable,
    NotFound,
    NotReady,
    QuotaExceeded,
    TooLarge,
    UnsupportedMediaType,
)
from upweight.schema import (
    CheckState,
    DatasetChange,
    DatasetRecord,
    DatasetRequest,
    DatasetRows,
    DeriveRequest,
    Page,
)

router = APIRouter(
    prefix="/v1/datasets",
    tags=["Datasets"],
    responses=documented(*EVERYWHERE),
)
_EXAMPLES: Any = {
    "images": {
        "summary": "Handwritten digits in one safetensors shard",
        "value": {
            "name": "digits-train",
            "format": "safetensors",
            "blobs": [DATASET_BLOB],
            "inputs": ["x"],
            "targets": ["y"],
            "preview": {"kind": "image", "column": "x", "shape": [8, 8]},
            "class_names": ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"],
        },
    },
}
_DERIVATIONS: Any = {
    "cleaned": {
        "summary": "Without two rows, and with one label put right",
        "value": {"name": "digits-clean", "drop": [3, 17], "relabel": {"5": 8}},
    },
}
_CHANGES: Any = {
    "picture": {
        "summary": "64 numbers as a picture",
        "value": {"preview": {"kind": "image", "column": "x", "shape": [8, 8]}},
    },
}


@router.post(
    "",
    summary="Register a dataset",
    status_code=202,
    dependencies=[Depends(json_only)],
    responses=documented(InvalidRequest, IdempotencyConflict, TooLarge, UnsupportedMediaType),
)
def register(
    request: Annotated[DatasetRequest, Body(openapi_examples=_EXAMPLES)],
    parts: PartsNow,
    caller: Writer,
    trace: TraceNow,
    response: Response,
    key: IdempotencyKey = None,
) -> DatasetRecord:
    """Registers a dataset: a new version of its name, in state `checking` until a worker has read it once."""
    once = idempotency(key, "POST /v1/datasets", request)
    record = register_dataset(parts, caller, request, once, trace)
    response.headers["Location"] = f"/v1/datasets/{record['id']}"
    return DatasetRecord.model_validate(record)


@router.post(
    "/{reference}/derive",
    summary="Derive a dataset",
    status_code=202,
    dependencies=[Depends(json_only)],
    responses=documented(
        *(InvalidRequest, IdempotencyConflict, NotFound, NotReady, QuotaExceeded),
        *(TooLarge, UnsupportedMediaType),
    ),
)
def derive(
    reference: str,
    request: Annotated[DeriveRequest, Body(openapi_examples=_DERIVATIONS)],
    parts: PartsNow,
    caller: Writer,
    trace: TraceNow,
    response: Response,
    key: IdempotencyKey = None,
) -> DatasetRecord:
    """A dataset of another one's rows: without some of them, with other labels of some. No data are copied.

    It is a new version of its name, in state `checking` until a worker has read it once. The dataset it is derived
    from, which may be derived itself, can't be deleted before it.
    """
    once = idempotency(key, f"POST /v1/datasets/{reference}/derive", request)
    record = derive_dataset(parts, caller, reference, request, once, trace)
    response.headers["Location"] = f"/v1/datasets/{record['id']}"
    return DatasetRecord.model_validate(record)


@router.get("", summary="List datasets")
def listing(
    parts: PartsNow,
    caller: Reader,
    paging: PagingQuery,
    name: Annotated[str | None, Query(max_length=128)] = None,
    state: CheckState | None = None,
    label: LabelQuery = [],  # noqa: B006 (FastAPI copies it)
) -> Page[DatasetRecord]:
    """Datasets, newest first."""
    filters = filters_of(name=name, state=state, labels=label)
    return Page[DatasetRecord].model_validate(
        page_of(parts, "dataset", caller.namespace, paging, filters)
    )


@router.get("/{reference}", summary="Show a dataset", responses=documented(NotFound))
async def get(reference: str, parts: PartsNow, caller: Reader, wait: Wait = 0) -> DatasetRecord:
    """A dataset by id, name (its newest version) or `name@version`."""
    found = await settled(parts, "dataset", caller.namespace, reference, wait)
    return DatasetRecord.model_validate(found)


@router.patch(
    "/{reference}",
    summary="Change how a dataset's rows are shown",
    dependencies=[Depends(json_only)],
    responses=documented(
        NotFound, Conflict, NotReady, InvalidRequest, TooLarge, UnsupportedMediaType
    ),
)
def change(
    reference: str,
    wanted: Annotated[DatasetChange, Body(openapi_examples=_CHANGES)],
    parts: PartsNow,
    caller: Writer,
) -> DatasetRecord:
    """Changes a dataset's preview: how the explorer and reports draw a row. Results do not depend on it."""
    changed = change_preview(parts, caller.namespace, reference, wanted)
    return DatasetRecord.model_validate(changed)


@router.get(
    "/{reference}/rows",
    summary="Read rows of a dataset",
    response_model=DatasetRows,
    responses={
        200: {"description": "The rows.", "content": BINARY_CONTENT},
        **documented(NotFound, NotReady, Conflict, NotAcceptable),
    },
)
def rows(
    reference: str,
    parts: PartsNow,
    caller: Reader,
    rows: Annotated[
        str | None,
        Query(
            max_length=20_000,
            description="Rows as slices and single numbers: `0:20`, `3,5`; or by `id`. All when left out.",
            examples=["0:20"],
        ),
    ] = None,
    id: Annotated[
        list[str], Query(max_length=1000, description="Rows by their ids, in this order.")
    ] = [],  # noqa: B006 (FastAPI copies it)
    where: Annotated[
        list[str],
        Query(
            max_length=1000,
            description="Of these rows those with a value in a metadata column or target: `source=web`; several of one "
            "column mean any of them. Values are JSON, or text.",
        ),
    ] = [],  # noqa: B006
    column: Annotated[
        list[str],
        Query(max_length=64, description="Columns; all when left out. npy and Arrow take one."),
    ] = [],  # noqa: B006 (FastAPI copies it)
    accept: Annotated[str | None, Header(include_in_schema=False)] = None,
) -> Response:
    """Some rows, to look at: all columns as JSON while the numbers are few, or one column as npy or an Arrow stream."""
    found = resolve(parts, "dataset", caller.namespace, reference)
    record = DatasetRecord.model_validate(found)
    dataset = ShardedRows.of(parts, caller.namespace, record)
    columns = dataset.chosen(column)
    chosen = positions(rows, record.rows or 0, "rows")
    if id:
        if rows is not None:
            raise InvalidRequest.field("query:id", "rows and id choose the same; give one of them")
        names = RowNames.of(parts, caller.namespace, record, (), id)
        chosen = [names.row_of_key(each, "query:id") for each in id]
    if where:
        keep = np.ones(len(chosen), bool)
        for name, values in _filters(where).items():
            grouped = GroupColumn.of(dataset, name, "query:where")
            keep &= grouped.chosen(chosen, values, "query:where")
        chosen = [chosen[place] for place in np.flatnonzero(keep).tolist()]
    numbers = [dataset.numbers(each, chosen) for each in columns]
    count = sum(each.count for each in numbers)
    format = chosen_format(accept, max(count, len(chosen)), parts.settings.json_numbers)
    if format != "json":
        if len(columns) != 1:
            words = f"{format} holds one array; choose one column of {', '.join(each.name for each in columns)}"
            raise InvalidRequest.field("query:column", words)
        return STREAMED[format](numbers[0])
    return JSONResponse(dataset.as_json(columns, chosen).model_dump())


def _filters(where: list[str]) -> dict[str, list[Any]]:
    """Values by column. Raises InvalidRequest."""
    found: dict[str, list[Any]] = {}
    for text in where:
        name, equals, value = text.partition("=")
        if not equals:
            words = "name a column and a value: where=source=web"
            raise InvalidRequest.field("query:where", words, text)
        try:
            known = json.loads(value)
        except ValueError:
            known = value
        found.setdefault(name, []).append(
            known if isinstance(known, bool | int | float | str) else value
        )
    return found


@router.delete(
    "/{reference}",
    summary="Delete a dataset",
    status_code=204,
    responses=documented(NotFound, InUse),
)
def delete(reference: str, parts: PartsNow, caller: Writer) -> None:
    """Deletes a dataset that no job uses and no dataset is derived from, and ends its check. Its blobs stay."""
    delete_checked(parts, "dataset", caller.namespace, reference)
