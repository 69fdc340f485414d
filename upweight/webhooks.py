"""Signatures of webhooks, as Standard Webhooks says: HMAC-SHA256 over id, timestamp and body.

event = verify_webhook(request.body, request.headers, secret)
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from upweight.errors import UpweightError

if TYPE_CHECKING:
    from upweight.schema import WebhookEvent

PREFIX = "whsec_"
ID, TIMESTAMP, SIGNATURE = "webhook-id", "webhook-timestamp", "webhook-signature"
_VERSION = "v1"
_SECRET_BYTES = (24, 64)


class WebhookInvalid(UpweightError):
    """A webhook that does not come from the service, was changed, or is too old: answer 400 and do nothing."""

    type, title, status = "webhook-invalid", "The webhook can't be trusted", 0


def verify_webhook(
    body: bytes | str,
    headers: Mapping[str, str],
    secret: str | Sequence[str],
    *,
    tolerance: float = 300.0,
) -> WebhookEvent:
    """The event that a webhook brings, once its signature and its time have been checked. Raises WebhookInvalid.

    Args:
        body: The request's body as it arrived, before any parsing.
        headers: The request's headers; upper and lower case do not matter.
        secret: `whsec_…` of the namespace, or several while it is changed.
        tolerance: Seconds that the sender's clock and ours may differ. An older webhook may be a copy, replayed.

    Deliveries are repeated until they are answered with a 2xx status: pass over an event whose `webhook-id` header
    you have seen.
    """
    content = body.encode() if isinstance(body, str) else bytes(body)
    found = {name.lower(): value for name, value in headers.items()}
    missing = [name for name in (ID, TIMESTAMP, SIGNATURE) if name not in found]
    if missing:
        raise WebhookInvalid(f"the header {missing[0]} is missing: this is no signed webhook")
    _require_recent(found[TIMESTAMP], tolerance)
    secrets = [secret] if isinstance(secret, str) else list(secret)
    expected = [sign(each, found[ID], found[TIMESTAMP], content) for each in secrets]
    given = found[SIGNATURE].split()
    # All are compared, so that the time tells nothing.
    matches = [
        hmac.compare_digest(ours.encode(), theirs.encode()) for ours in expected for theirs in given
    ]
    if not any(matches):
        raise WebhookInvalid(
            "no signature matches: pass the body as it arrived, unparsed, and this namespace's secret"
        )
    return _event(content)


def _event(content: bytes) -> WebhookEvent:
    from upweight.schema import WebhookEvent  # loaded when it is needed

    try:
        return WebhookEvent.model_validate_json(content)
    except ValueError:
        raise WebhookInvalid("the body is signed, but is no event of a job") from None


def _require_recent(timestamp: str, tolerance: float) -> None:
    if not (timestamp.isascii() and timestamp.isdigit() and len(timestamp) < 16):
        raise WebhookInvalid(f"the header {TIMESTAMP} is not a number of seconds")
    if abs(time.time() - int(timestamp)) > tolerance:
        raise WebhookInvalid(
            f"it was sent more than {tolerance:g} s ago, or this machine's clock is wrong"
        )


def sign(secret: str, id: str, timestamp: str, body: bytes) -> str:
    """One signature: `v1,` and base64. Raises WebhookInvalid for what is no secret."""
    content = b".".join((id.encode(), timestamp.encode(), body))
    digest = hmac.new(secret_key(secret), content, hashlib.sha256).digest()
    return f"{_VERSION},{base64.b64encode(digest).decode()}"


def secret_key(secret: str) -> bytes:
    """The bytes that a secret stands for. Raises WebhookInvalid."""
    try:
        key = base64.b64decode(secret.removeprefix(PREFIX), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    low, high = _SECRET_BYTES
    if not secret.startswith(PREFIX) or not low <= len(key) <= high:
        # Never the secret itself in the words.
        raise WebhookInvalid(f"a secret is '{PREFIX}' and base64 of {low} to {high} random bytes")
    return key
