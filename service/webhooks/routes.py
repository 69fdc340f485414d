"""HTTP for webhooks: what became of a job's, and by what they are signed."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Header

from service.dependencies import Administrator, PartsNow, Reader
from service.problems import EVERYWHERE, documented
from service.registry import find_job
from upweight.errors import (
    NotFound,
)
from upweight.schema import Deliveries, WebhookEvent, WebhookSecret

router = APIRouter(
    prefix="/v1",
    tags=["Webhooks"],
    responses=documented(*EVERYWHERE),
)


@router.get(
    "/jobs/{id}/deliveries",
    summary="List webhook deliveries of a job",
    responses=documented(NotFound),
)
def deliveries(id: str, parts: PartsNow, caller: Reader) -> Deliveries:
    """What became of the events that the job's webhook was to be told."""
    find_job(parts, caller.namespace, id)
    found = parts.outbox.of_job(caller.namespace, id)
    return Deliveries.model_validate({"items": [_shown(delivery) for delivery in found]})


def _shown(delivery: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in delivery.items() if name not in ("url", "body")}


@router.get("/webhooks/secret", summary="Show the signing secret of webhooks")
def secret(parts: PartsNow, caller: Administrator) -> WebhookSecret:
    """By what this namespace's webhooks are signed."""
    return WebhookSecret(secret=parts.webhook_secrets.of(caller.namespace)[0])


@router.post("/webhooks/secret/rotate", summary="Replace the signing secret of webhooks")
def rotate(parts: PartsNow, caller: Administrator) -> WebhookSecret:
    """A new secret. For a day webhooks carry signatures by both, so that receivers can be changed in between."""
    return WebhookSecret(secret=parts.webhook_secrets.rotate(caller.namespace))


outgoing = APIRouter()  # what we send, for the OpenAPI document


@outgoing.post(
    "job",
    tags=["Webhooks"],
    status_code=204,
    responses={
        410: {"description": "It is not told again."},
        "default": {"description": "It is told again later."},
    },
)
def job(
    event: WebhookEvent,
    webhook_id: Annotated[str, Header(description="The same for every try of one event.")],
    webhook_timestamp: Annotated[int, Header(description="Seconds since 1970, of this try.")],
    webhook_signature: Annotated[
        str, Header(description="`v1,` and base64 of HMAC-SHA256; after a rotation two of them.")
    ],
) -> None:
    """Sent to a job's `webhook.url` by Standard Webhooks; any 2xx answer ends it, others are tried again."""
