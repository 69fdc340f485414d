"""What holds for every request: ids, limits, and a problem document whatever goes wrong."""

from __future__ import annotations

import json
import socket
from typing import Any

import httpx2
import pytest

from service.storage.queue import TaskQueue
from tests.service.acting import Acting, field, problem
from tests.service.conftest import Front

JSON = {"Content-Type": "application/json"}
TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def test_a_request_id_is_taken_and_answered(client: httpx2.Client) -> None:
    for path in ("/healthz", "/v1/jobs/none", "/nowhere"):
        assert (
            client.get(path, headers={"X-Request-ID": "mine-1"}).headers["x-request-id"] == "mine-1"
        )
    assert (
        client.get("/nowhere", headers={"X-Request-ID": "mine-1"}).json()["request_id"] == "mine-1"
    )


def test_a_request_id_that_is_none_is_replaced(client: httpx2.Client) -> None:
    for given in ("two words", "x" * 129, "", "ä"):
        headers = {b"X-Request-ID": given.encode("latin-1")}
        assert client.get("/healthz", headers=headers).headers["x-request-id"].startswith("req_")


def test_a_traceparent_is_answered_and_carried_into_the_task(acting: Acting) -> None:
    headers = {"traceparent": TRACEPARENT, "X-Request-ID": "mine-2"}
    request = acting.model_request()
    answer = acting.client.post("/v1/models", json=request, headers=headers)
    assert answer.headers["traceparent"] == TRACEPARENT
    queue: Any = acting.parts.queue
    assert isinstance(queue, TaskQueue)
    task = queue._queues["high"].jobs[0]
    assert task.meta["trace"] == f"mine-2 {TRACEPARENT}"
    assert task.args == ["default", answer.json()["id"]]


def test_an_address_that_is_none_is_a_problem(client: httpx2.Client) -> None:
    problem(client.get("/v1/nothing"), 404, "not-found")
    problem(client.get("/v1/jobs/"), 404, "not-found")


def test_a_method_that_is_not_taken_names_those_that_are(client: httpx2.Client) -> None:
    answer = client.delete("/v1/jobs")
    assert "it takes GET, POST" in problem(answer, 405, "method-not-allowed")["detail"]
    assert answer.headers["allow"] == "GET, POST"


@pytest.mark.parametrize("path", ["/v1/models", "/v1/datasets", "/v1/jobs"])
def test_bodies_that_are_no_json_objects_are_refused(client: httpx2.Client, path: str) -> None:
    for body, words in (
        (b'{"name": ', "the body is not JSON: Expecting value at character 9"),
        (b"[]", "must be a JSON object"),
        (b'"x"', "must be a JSON object"),
        (b"", "the body is missing"),
        (b"null", "must be a JSON object"),
        (b'{"name": "\xff"}', "can't be read as JSON"),
        (b"[" * 50_000, "can't be read as JSON"),
        (b"1" * 5000, "can't be read as JSON"),
        (b'{"name": "\\ud800"}', ""),
        (b'{"a": 1, "\\u0000": 2}', ""),
    ):
        answer = client.post(path, content=body, headers=JSON)
        assert words in problem(answer, 422, "invalid-request")["detail"]


def test_another_content_type_is_refused(client: httpx2.Client) -> None:
    for headers in ({}, {"Content-Type": "text/plain"}, {"Content-Type": "multipart/form-data"}):
        answer = client.post("/v1/jobs", content=b"{}", headers=headers)
        said = problem(answer, 415, "unsupported-media-type")["detail"]
        assert "application/json" in said
    headers = {"Content-Type": "application/json; charset=utf-8"}
    assert client.post("/v1/jobs", content=b"{}", headers=headers).status_code == 422


def test_a_body_over_the_limit_is_refused_before_it_is_read(
    client: httpx2.Client, front: Front
) -> None:
    limit = front.settings.body_bytes
    host, port = front.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        head = f"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: {limit + 1}\r\n\r\n"
        connection.sendall(head.encode())
        assert b" 413 " in connection.recv(4096)


def test_a_chunked_body_over_the_limit_is_refused(client: httpx2.Client, front: Front) -> None:
    pieces = (b" " * 1000 for _ in range(front.settings.body_bytes // 1000 + 50))
    answer = client.post("/v1/jobs", content=pieces, headers=JSON)
    problem(answer, 413, "too-large")
    assert client.get("/healthz").status_code == 200


def test_what_was_sent_is_shown_shortened(client: httpx2.Client) -> None:
    body = {"name": "n" * 5000, "format": "npz", "blobs": ["sha256:" + "0" * 64]}
    answer = client.post("/v1/datasets", json=body)
    assert field(answer, "/name")
    assert len(answer.json()["errors"][0]["value"]) == 200


def test_pointers_are_escaped_as_json_pointers_are(client: httpx2.Client) -> None:
    body = {"name": "n", "format": "npz", "blobs": ["sha256:" + "0" * 64], "a/b~c": 1}
    assert field(client.post("/v1/datasets", json=body), "/a~1b~0c")


def test_a_wrong_element_of_a_list_is_pointed_at(client: httpx2.Client) -> None:
    body = {"name": "n", "format": "npz", "blobs": ["sha256:" + "0" * 64, "x"]}
    assert field(client.post("/v1/datasets", json=body), "/blobs/1")


def test_a_crash_is_a_problem_without_its_insides(
    client: httpx2.Client, front: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("secret")

    monkeypatch.setattr(front.parts.records, "page", broken)
    answer = client.get("/v1/jobs")
    problem(answer, 500, "internal-error")
    assert "secret" not in answer.text
    assert "Traceback" not in answer.text
    monkeypatch.undo()
    assert client.get("/v1/jobs").status_code == 200


def test_surrogates_and_odd_keys_do_not_break_the_answer(acting: Acting) -> None:
    body = acting.dataset_request(class_names=["\u0007"], labels={"?": "x"})
    answer = acting.post("/v1/datasets", body)
    pointers = {error["pointer"] for error in answer.json()["errors"]}
    assert pointers == {"/class_names/0", "/labels"}
    text = json.dumps(acting.dataset_request()).replace('"data"', '"da\\ud800"')
    answer = acting.client.post("/v1/datasets", content=text, headers=JSON)
    problem(answer, 422, "invalid-request")
