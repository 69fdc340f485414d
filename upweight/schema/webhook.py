"""Webhooks: what a job asks for, what is sent, and what became of it."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field

from upweight.schema.base import Answer, Request
from upweight.schema.problem import Problem

WebhookState = Literal["running", "succeeded", "failed", "cancelled"]


class Webhook(Request):
    """Called when the job reaches a state; signed with HMAC-SHA256 as Standard Webhooks says.

    Delivered at least once: the header `webhook-id` stays the same when a delivery is repeated.
    """

    url: Annotated[
        str,
        Field(
            min_length=1,
            max_length=2048,
            description="An https address of the open internet, without a user or password.",
        ),
    ]
    events: Annotated[
        tuple[WebhookState, ...],
        Field(min_length=1, max_length=4, description="States that are told."),
    ] = ("succeeded", "failed", "cancelled")


class JobEvent(Answer):
    """The job at the moment of its change. Its whole record is at `/v1/jobs/{id}`."""

    id: str
    state: str
    kind: str
    model_id: str
    labels: dict[str, str] = {}
    attempt: int
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    problem: Problem | None = None


class WebhookEvent(Answer):
    """The body of a webhook."""

    type: str = Field(
        description="`job.` and the state that the job has reached.", examples=["job.succeeded"]
    )
    timestamp: datetime = Field(description="When the job reached it.")
    data: JobEvent


class Delivery(Answer):
    """What became of one event that a webhook was to be told."""

    id: str = Field(description="The header `webhook-id`, the same for every try.")
    event: str
    state: Literal["pending", "delivered", "failed"]
    created_at: datetime
    tries: int = 0
    last_try_at: datetime | None = None
    next_try_at: datetime | None = Field(None, description="While it is pending.")
    last_status: int | None = Field(None, description="HTTP status of the last answer.")
    last_error: str | None = Field(
        None, description="Why the last try did not deliver it, and what to do."
    )


class Deliveries(Answer):
    """All of one job, the oldest first. Kept for seven days."""

    items: list[Delivery]


class WebhookSecret(Answer):
    """By what webhooks of this namespace are signed."""

    secret: str = Field(
        description="`whsec_` and base64; give it to `upweight.verify_webhook`, or to any Standard Webhooks library."
    )
