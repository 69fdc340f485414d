"""HTTP for models."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, Query, Response

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
from service.docs.examples import MODEL_BLOB
from service.models.registration import register_model
from service.problems import EVERYWHERE, documented
from service.registry import delete_checked, filters_of, page_of, settled
from upweight.errors import (
    IdempotencyConflict,
    InUse,
    InvalidRequest,
    NotFound,
    TooLarge,
    UnsupportedMediaType,
)
from upweight.schema import CheckState, ModelRecord, ModelRequest, Page

router = APIRouter(
    prefix="/v1/models",
    tags=["Models"],
    responses=documented(*EVERYWHERE),
)
_EXAMPLES: Any = {
    "pt2": {
        "summary": "A program of torch.export",
        "value": {
            "name": "digits-mlp",
            "program": {"format": "pt2", "blob": MODEL_BLOB},
            "loss": {"name": "cross_entropy"},
            "labels": {"team": "demo"},
        },
    },
    "factory": {
        "summary": "A factory that the operator allows, and weights of your own",
        "value": {
            "name": "resnet",
            "program": {
                "format": "factory",
                "factory": "torchvision.models:resnet18",
                "kwargs": {"num_classes": 10},
                "weights": "sha256:" + "3" * 64,
            },
            "loss": {"name": "cross_entropy"},
            "parameters": ["fc.*"],
        },
    },
}


@router.post(
    "",
    summary="Register a model",
    status_code=202,
    dependencies=[Depends(json_only)],
    responses=documented(InvalidRequest, IdempotencyConflict, TooLarge, UnsupportedMediaType),
)
def register(
    request: Annotated[ModelRequest, Body(openapi_examples=_EXAMPLES)],
    parts: PartsNow,
    caller: Writer,
    trace: TraceNow,
    response: Response,
    key: IdempotencyKey = None,
) -> ModelRecord:
    """Registers a model: a new version of its name, in state `checking` until a worker has loaded it once."""
    once = idempotency(key, "POST /v1/models", request)
    record = register_model(parts, caller, request, once, trace)
    response.headers["Location"] = f"/v1/models/{record['id']}"
    return ModelRecord.model_validate(record)


@router.get("", summary="List models")
def listing(
    parts: PartsNow,
    caller: Reader,
    paging: PagingQuery,
    name: Annotated[str | None, Query(max_length=128)] = None,
    state: CheckState | None = None,
    label: LabelQuery = [],  # noqa: B006 (FastAPI copies it)
) -> Page[ModelRecord]:
    """Models, newest first."""
    filters = filters_of(name=name, state=state, labels=label)
    return Page[ModelRecord].model_validate(
        page_of(parts, "model", caller.namespace, paging, filters)
    )


@router.get("/{reference}", summary="Show a model", responses=documented(NotFound))
async def get(reference: str, parts: PartsNow, caller: Reader, wait: Wait = 0) -> ModelRecord:
    """A model by id, name (its newest version) or `name@version`."""
    found = await settled(parts, "model", caller.namespace, reference, wait)
    return ModelRecord.model_validate(found)


@router.delete(
    "/{reference}", summary="Delete a model", status_code=204, responses=documented(NotFound, InUse)
)
def delete(reference: str, parts: PartsNow, caller: Writer) -> None:
    """Deletes a model that no job uses, and ends its check. Its blob stays."""
    delete_checked(parts, "model", caller.namespace, reference)
