"""How requests are sent: again after a loss, once in effect, and with words when it fails."""

from __future__ import annotations

import time
from typing import Any

import httpx2
import pytest

from tests.upweight import records
from tests.upweight.local_server import Server, answer, cut, dropped, late, problem
from upweight import Client, ConnectionFailed, UnexpectedAnswer, errors
from upweight.http.connection import Connection, Retries

MODEL_PATH = "/v1/models/digits-cnn"


def test_unavailable_service_is_asked_again_after_the_time_it_names(
    server: Server, client: Client
) -> None:
    server.on(
        "GET",
        MODEL_PATH,
        problem(503, "unavailable", "Redis is away", Retry_After="0.3"),
        answer(200, records.model()),
    )
    begun = time.monotonic()
    assert client.models.get("digits-cnn").name == "digits-cnn"
    assert time.monotonic() - begun >= 0.3


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_transient_statuses_are_tried_again(server: Server, client: Client, status: int) -> None:
    server.on("GET", MODEL_PATH, answer(status), answer(200, records.model()))
    client.models.get("digits-cnn")
    assert len(server.asked) == 2


@pytest.mark.parametrize("status", [400, 401, 404, 409, 422, 500, 501])
def test_other_statuses_are_not_tried_again(server: Server, client: Client, status: int) -> None:
    server.on("GET", MODEL_PATH, answer(status))
    with pytest.raises(errors.UpweightError):
        client.models.get("digits-cnn")
    assert len(server.asked) == 1


@pytest.mark.parametrize("timeout", ["60", 0, -1.0, float("nan"), True])
def test_a_timeout_that_is_no_number_of_seconds_is_told(timeout: Any) -> None:
    with pytest.raises(ValueError, match=r"timeout is seconds .* it is "):
        Client("http://127.0.0.1:1", timeout=timeout)


@pytest.mark.parametrize("fault", [dropped, cut(b'{"id": 1, "name":', 8)], ids=["before", "midway"])
def test_lost_connection_is_made_again(server: Server, client: Client, fault: object) -> None:
    server.on("GET", MODEL_PATH, fault, answer(200, records.model()))  # type: ignore[arg-type]
    assert client.models.get("digits-cnn").id == records.MODEL


def test_a_creation_sent_twice_has_one_idempotency_key(server: Server, client: Client) -> None:
    server.on("POST", "/v1/jobs", dropped, answer(503), answer(202, records.job("queued")))
    client.jobs.create(records.job()["request"])
    keys = {asked.headers["idempotency-key"] for asked in server.asked}
    assert len(server.asked) == 3
    assert len(keys) == 1


def test_two_creations_have_two_idempotency_keys(server: Server, client: Client) -> None:
    server.on("POST", "/v1/jobs", answer(202, records.job("queued")))
    for _ in range(2):
        client.jobs.create(records.job()["request"])
    assert len({asked.headers["idempotency-key"] for asked in server.asked}) == 2


def test_a_request_still_in_progress_is_waited_for(server: Server, client: Client) -> None:
    server.on(
        "POST",
        "/v1/jobs",
        problem(409, "request-in-progress", "the first one runs"),
        answer(202, records.job("queued")),
    )
    assert client.jobs.create(records.job()["request"]).state == "queued"


def test_a_deletion_whose_answer_was_lost_counts_as_done(server: Server, client: Client) -> None:
    server.on("DELETE", MODEL_PATH, dropped, problem(404, "not-found", "no such model"))
    client.models.delete("digits-cnn")


def test_a_deletion_of_nothing_is_an_error(server: Server, client: Client) -> None:
    server.on("DELETE", MODEL_PATH, problem(404, "not-found", "no such model"))
    with pytest.raises(errors.NotFound, match="no such model"):
        client.models.delete("digits-cnn")


def test_retries_end_and_the_last_problem_is_raised(server: Server) -> None:
    server.on("GET", MODEL_PATH, problem(429, "queue-full", "10000 jobs wait", Retry_After=0))
    with (
        Client(server.url, retries=2) as client,
        pytest.raises(errors.QueueFull, match="10000") as caught,
    ):
        client.models.get("digits-cnn")
    assert len(server.asked) == 3
    assert caught.value.retry_after == 0.0


def test_a_problem_is_raised_as_its_class_with_fields_and_request_id(
    server: Server, client: Client
) -> None:
    body = {
        "type": "not-stored",
        "title": "t",
        "status": 404,
        "detail": "the job kept the mean alone",
        "errors": [{"pointer": "/keep", "detail": "d"}],
    }
    typed = {"Content_Type": "application/problem+json", "X_Request_ID": "r-17"}
    server.on("GET", MODEL_PATH, answer(404, body, **typed))
    with pytest.raises(errors.NotStored) as caught:
        client.models.get("digits-cnn")
    assert caught.value.errors[0].pointer == "/keep"
    assert caught.value.request_id == "r-17"


def test_an_answer_of_a_proxy_is_told_as_such(server: Server, client: Client) -> None:
    server.on("GET", MODEL_PATH, answer(403, b"<html>Blocked</html>", Content_Type="text/html"))
    with pytest.raises(errors.Forbidden, match=r"not an Upweight service.*Blocked"):
        client.models.get("digits-cnn")


def test_a_redirect_names_the_address_to_use(server: Server, client: Client) -> None:
    server.on("GET", MODEL_PATH, answer(301, Location="https://elsewhere.example/"))
    with pytest.raises(errors.UpweightError, match=r"elsewhere\.example.*UPWEIGHT_URL"):
        client.models.get("digits-cnn")


@pytest.mark.parametrize("body", [b"<html>Welcome</html>", b'{"id": 1}'])
def test_a_success_that_is_no_record_is_an_unexpected_answer(
    server: Server, client: Client, body: bytes
) -> None:
    server.on("GET", MODEL_PATH, answer(200, body))
    with pytest.raises(UnexpectedAnswer, match="ModelRecord"):
        client.models.get("digits-cnn")


def test_nothing_listening_names_the_url_and_what_to_check() -> None:
    with (
        Client("http://127.0.0.1:9", retries=1) as client,
        pytest.raises(ConnectionFailed, match=r"127\.0\.0\.1:9 .*upweight serve.*UPWEIGHT_URL"),
    ):
        client.models.get("digits-cnn")


def test_a_silent_service_times_out_with_the_seconds(server: Server) -> None:
    server.on("GET", MODEL_PATH, late(5.0, answer(200, records.model())))
    with (
        Client(server.url, timeout=0.2, retries=0) as client,
        pytest.raises(ConnectionFailed, match=r"sent nothing for 0\.2 seconds"),
    ):
        client.models.get("digits-cnn")


def test_every_request_carries_key_and_request_id(server: Server, client: Client) -> None:
    server.on("GET", MODEL_PATH, answer(503), answer(200, records.model()))
    client.models.get("digits-cnn")
    first, second = server.asked
    assert first.headers["authorization"] == "Bearer key-of-mine"
    assert first.headers["x-request-id"] == second.headers["x-request-id"]
    assert first.headers["user-agent"].startswith("upweight/")


def test_the_environment_names_service_and_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UPWEIGHT_URL", "https://up.example/")
    monkeypatch.setenv("UPWEIGHT_API_KEY", "secret")
    connection = Connection.of()
    assert connection.url == "https://up.example"
    assert connection.headers()["Authorization"] == "Bearer secret"
    assert "secret" not in repr(connection)


@pytest.mark.parametrize("url", ["https://up.example/v1", "https://up.example/v1/"])
def test_the_version_may_be_in_the_address(url: str) -> None:
    assert Connection.of(url).url == "https://up.example"


def test_a_url_without_a_scheme_is_refused() -> None:
    with pytest.raises(ValueError, match="http://"):
        Client("127.0.0.1:8765")


def test_certificates_are_checked_wherever_there_are_any(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[bool] = []
    plain = httpx2.Client.__init__

    def init(self: httpx2.Client, **options: Any) -> None:
        made.append(options["verify"])
        plain(self, **options)

    monkeypatch.setattr(httpx2.Client, "__init__", init)
    Client("https://up.example").close()
    Client("http://127.0.0.1:8765").close()
    assert made == [True, False]


def test_delays_double_to_a_bound_and_jitter_both_ways() -> None:
    delays = [Retries().delay(attempt, None, 0.5) for attempt in range(12)]
    assert delays[1] == 2 * delays[0]
    assert max(delays) == 8.0
    assert Retries().delay(3, None, 0.0) < Retries().delay(3, None, 0.999)
    assert Retries().delay(0, 10_000.0, 0.5) == 120.0


def test_a_service_that_is_not_ready_says_so_without_raising(
    server: Server, client: Client
) -> None:
    body = {"ready": False, "version": "0.1.0", "components": []}
    server.on("GET", "/readyz", answer(503, body))
    assert client.health().ready is False
    assert len(server.asked) == 1


def test_lists_turn_their_pages_only_as_far_as_they_are_read(
    server: Server, client: Client
) -> None:
    pages = [
        {"items": [records.model(version=v)] * 100, "has_more": True, "next_after": f"a{v}"}
        for v in (1, 2, 3)
    ]
    server.on("GET", "/v1/models", *(answer(200, page) for page in pages))
    listed = client.models.list(limit=150, labels={"team": "vision"})
    assert server.asked == []
    assert len(list(listed)) == 150
    assert [dict(asked.query).get("after") for asked in server.asked] == [None, "a1"]
    assert [dict(asked.query)["limit"] for asked in server.asked] == ["100", "50"]
    assert ("label", "team=vision") in server.asked[0].query
