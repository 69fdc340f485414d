"""Signatures: those of the standard, and none that was forged, changed or kept too long."""

from __future__ import annotations

import base64
import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upweight import WebhookInvalid, verify_webhook
from upweight.webhooks import sign

SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()
OTHER = "whsec_" + base64.b64encode(bytes(32)).decode()
EVENT: dict[str, Any] = {
    "type": "job.succeeded",
    "timestamp": "2026-01-01T00:00:00Z",
    "data": {
        "id": "job_1",
        "state": "succeeded",
        "kind": "influences",
        "model_id": "mdl_1",
        "attempt": 1,
        "created_at": "2026-01-01T00:00:00Z",
    },
}
BODY = json.dumps(EVENT).encode()


def signed(
    body: bytes = BODY, secret: str = SECRET, at: float | None = None, id: str = "msg_1"
) -> dict[str, str]:
    timestamp = str(int(time.time() if at is None else at))
    return {
        "Webhook-Id": id,
        "webhook-timestamp": timestamp,
        "WEBHOOK-SIGNATURE": sign(secret, id, timestamp, body),
    }


def test_the_standards_own_example_is_signed_as_it_says() -> None:
    """From the reference libraries of Standard Webhooks."""
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    id, timestamp, body = "msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", b'{"test": 2432232314}'
    expected = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    assert sign(secret, id, timestamp, body) == expected


def test_a_webhook_of_ours_is_believed() -> None:
    event = verify_webhook(BODY, signed(), SECRET)
    assert (event.type, event.data.id) == ("job.succeeded", "job_1")
    assert verify_webhook(BODY.decode(), signed(), [OTHER, SECRET]).data.attempt == 1


def test_one_good_signature_among_several_is_enough() -> None:
    headers = signed()
    headers["WEBHOOK-SIGNATURE"] = f"v1a,xx v2,yy {headers['WEBHOOK-SIGNATURE']}"
    assert verify_webhook(BODY, headers, SECRET)


@pytest.mark.parametrize(
    ("changed", "body", "words"),
    [
        ({"Webhook-Id": "msg_2"}, BODY, "no signature matches"),
        ({}, BODY + b" ", "no signature matches"),
        ({"WEBHOOK-SIGNATURE": ""}, BODY, "no signature matches"),
        ({"WEBHOOK-SIGNATURE": "v1,ü"}, BODY, "no signature matches"),
        ({"webhook-timestamp": "now"}, BODY, "not a number"),
        ({"webhook-timestamp": "²"}, BODY, "not a number"),
    ],
)
def test_a_webhook_that_was_changed_is_not_believed(
    changed: dict[str, str], body: bytes, words: str
) -> None:
    with pytest.raises(WebhookInvalid, match=words):
        verify_webhook(body, signed() | changed, SECRET)


@pytest.mark.parametrize("body", [b"{}", b"\xff"])
def test_what_is_no_event_of_a_job_is_not_believed(body: bytes) -> None:
    with pytest.raises(WebhookInvalid, match="no event of a job"):
        verify_webhook(body, signed(body), SECRET)


@pytest.mark.parametrize(
    ("seconds", "words"), [(-400, "more than 300 s ago"), (400, "clock is wrong")]
)
def test_a_webhook_of_another_time_is_not_believed(seconds: float, words: str) -> None:
    with pytest.raises(WebhookInvalid, match=words):
        verify_webhook(BODY, signed(at=time.time() + seconds), SECRET)


def test_a_webhook_without_our_headers_or_signed_by_another_is_not_believed() -> None:
    with pytest.raises(WebhookInvalid, match="webhook-id is missing"):
        verify_webhook(BODY, {}, SECRET)
    with pytest.raises(WebhookInvalid, match="no signature matches"):
        verify_webhook(BODY, signed(secret=OTHER), SECRET)


@pytest.mark.parametrize("secret", ["", "whsec_", "whsec_!!!", "hunter2", "whsec_" + "A" * 8])
def test_what_is_no_secret_is_said_without_showing_it(secret: str) -> None:
    with pytest.raises(WebhookInvalid) as caught:
        verify_webhook(BODY, signed(), secret)
    assert not secret or secret == "whsec_" or secret not in str(caught.value)


@given(st.binary(max_size=200), st.dictionaries(st.text(max_size=20), st.text(max_size=40)))
def test_nothing_but_our_error_comes_of_any_bytes(body: bytes, headers: dict[str, str]) -> None:
    for given_headers in (headers, signed() | headers, {**signed(body), **headers}):
        try:
            verify_webhook(body, given_headers, SECRET)
        except WebhookInvalid:
            continue
        raise AssertionError("believed")
