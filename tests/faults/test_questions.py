"""Questions to an index while no worker takes them: told, refused in words, and followed by events until one does."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
import redis
import torch
from torch import nn

from service.local.background import Running, running
from tests.conftest import ONE_THREAD
from tests.journeys.problems import refused, said
from tests.patience import PATIENCE
from tests.service.test_process import running as front_end
from upweight import Client, errors

SECONDS, AT_ONCE = 2, 3
SETTINGS = {
    **ONE_THREAD,
    "UPWEIGHT_QUERY_SECONDS": str(PATIENCE),
    "UPWEIGHT_NAMESPACE_QUESTIONS": str(AT_ONCE),
}
EVENTS = {"Accept": "text/event-stream"}
BODY: dict[str, Any] = {"columns": {"x": [[0.1, 0.2, 0.3, 0.4]], "y": [1]}, "k": 2}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One with an index named `asked`."""
    torch.manual_seed(0)
    generator = np.random.default_rng(0)
    x = generator.normal(size=(40, 4)).astype("f4")
    with (
        running(tmp_path_factory.mktemp("asked"), environment=SETTINGS) as service,
        Client(service.url) as client,
    ):
        client.models.register("asked", nn.Linear(4, 3), example=x[:2], loss="cross_entropy")
        client.datasets.register("asked", x=x, y=generator.integers(0, 3, 40))
        client.indexes.create("asked", "asked", "asked", hessian_regularization=0.1).wait()
        yield service


@pytest.fixture
def http(service: Running) -> Iterator[httpx2.Client]:
    with Client(service.url) as client:
        path = f"{service.url}/v1/indexes/{client.indexes.get('asked').id}"
    with httpx2.Client(base_url=path, timeout=PATIENCE, trust_env=False) as http:
        yield http


@pytest.fixture
def impatient(service: Running, http: httpx2.Client) -> Iterator[httpx2.Client]:
    """The same index, by another front end that waits for a worker for no longer than this."""
    quick = {"UPWEIGHT_QUERY_SECONDS": str(SECONDS)}
    with front_end(service.redis_url, Path(service.storage), **quick) as front:
        path = f"{front.url}{http.base_url.path}"
        with httpx2.Client(base_url=path, timeout=PATIENCE, trust_env=False) as made:
            yield made


@pytest.fixture
def stopped(service: Running) -> Iterator[Any]:
    """The worker takes nothing until this is called."""
    service.send("worker-1", signal.SIGSTOP)
    try:
        yield lambda: service.send("worker-1", signal.SIGCONT)
    finally:
        service.send("worker-1", signal.SIGCONT)


def followed(response: httpx2.Response) -> Iterator[tuple[str, Any]]:
    for event in httpx2.EventSource(response):
        yield event.event, json.loads(event.data)


def test_events_tell_each_step_and_end_with_the_answer(http: httpx2.Client) -> None:
    with http.stream("POST", "/query", json=BODY, headers=EVENTS) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        events = list(followed(response))
    assert {name for name, _ in events[:-1]} == {"progress"}
    stages = [data["stage"] for _, data in events[:-1]]
    assert stages[0] == "queued"
    assert [each for each in ("gradients", "search", "candidates") if each in stages] == [
        "gradients", "search", "candidates",
    ]  # fmt: skip
    name, answer = events[-1]
    plain = http.post("/query", json=BODY).json()
    assert name == "answer"
    assert answer["rows"] == plain["rows"]
    query = {"test": "asked", "rows": "3", "k": 2}
    with http.stream("GET", "/query", params=query, headers=EVENTS) as response:
        *_, (name, answer) = followed(response)
    plain = http.post("/query", json={"test": {"dataset": "asked", "rows": "3"}, "k": 2}).json()
    assert (name, answer["rows"]) == ("answer", plain["rows"])
    assert http.get("/query", params=query).json()["rows"] == plain["rows"]


def test_what_is_wrong_is_refused_before_the_first_event_or_is_the_last_one(
    http: httpx2.Client,
) -> None:
    short = {**BODY, "columns": {"x": [[0.1]], "y": [1]}}
    answer = http.post("/query", json=short, headers=EVENTS)
    assert "shape (1,); it must be (4,)" in refused(answer, 422, "invalid-request", "/columns/x/0")
    for query, pointer, words in [
        ({"test": "asked", "k": 0}, "query:k", "at least 1"),
        ({"test": "asked", "rows": "x"}, "query:rows", "'x' is not a row or a slice"),
        ({"test": "a b"}, "query:test", "must match"),
        ({"test": "asked", "k": 3, "candidates": 4}, "query:", "give 0, or at least 6"),
    ]:
        answer = http.get("/query", params=query, headers=EVENTS)
        assert words in refused(answer, 422, "invalid-request", pointer)
    label = {**BODY, "columns": {**BODY["columns"], "y": [7]}}
    with http.stream("POST", "/query", json=label, headers=EVENTS) as response:
        *_, (name, problem) = followed(response)
    assert name == "problem"
    assert "label 7" in said(problem, 422, "invalid-request", "/columns")
    assert problem["request_id"] == response.headers["x-request-id"]


def test_the_sdk_hears_what_goes_on(service: Running) -> None:
    heard: list[str] = []
    with Client(service.url) as client:
        index = client.indexes.get("asked")
        row = {"x": np.zeros((2, 4)), "y": np.array([1, 2])}
        found = index.query(**row, progress=lambda each: heard.append(each.stage))
        assert found == index.query(**row)
        assert heard[0] == "queued"
        assert "search" in heard
        with pytest.raises(errors.InvalidRequest, match="label 7"):
            index.query(x=row["x"], y=[7, 7], progress=lambda each: None)


def test_a_question_that_no_worker_takes_is_refused_and_a_followed_one_waits_longer(
    impatient: httpx2.Client, stopped: Any
) -> None:
    with impatient.stream("POST", "/query", json=BODY, headers=EVENTS) as response:
        events = followed(response)
        name, progress = next(events)
        assert (name, progress["stage"]) == ("progress", "queued")
        answer = impatient.post("/query", json=BODY)
        assert "no worker has answered within 2 s" in refused(answer, 503, "unavailable")
        stopped()
        assert [name for name, _ in events][-1] == "answer"


def test_streams_count_as_questions_and_whoever_leaves_makes_room(
    http: httpx2.Client, service: Running, stopped: Any
) -> None:
    with ExitStack() as streams, redis.Redis.from_url(service.redis_url) as client:
        opened = [
            followed(
                streams.enter_context(http.stream("POST", "/query", json=BODY, headers=EVENTS))
            )
            for _ in range(AT_ONCE)
        ]
        assert [next(each)[0] for each in opened] == ["progress"] * AT_ONCE
        assert len(client.keys("upweight:question:*")) == AT_ONCE  # type: ignore[arg-type]
        for headers in (EVENTS, {}):
            answer = http.post("/query", json=BODY, headers=headers)
            assert "3 questions to indexes of this namespace" in refused(
                answer, 429, "rate-limited"
            )
        streams.close()
        service.wait(lambda: not client.keys("upweight:question:*"), PATIENCE, "questions are left")
    stopped()
    service.wait(
        lambda: http.post("/query", json=BODY).status_code == 200,
        PATIENCE,
        "there was no room again",
    )


def test_many_at_once_are_answered_or_refused_in_words(http: httpx2.Client) -> None:
    """32 connections where 3 questions may be under way: none is lost, and those answered are right."""
    wanted = http.post("/query", json=BODY).json()["rows"]
    answers: list[httpx2.Response] = []

    def ask() -> None:
        with httpx2.Client(base_url=http.base_url, timeout=PATIENCE, trust_env=False) as own:
            answers.extend(own.post("/query", json=BODY) for _ in range(3))

    threads = [threading.Thread(target=ask) for _ in range(32)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert len(answers) == 96
    answered = [each for each in answers if each.status_code == 200]
    assert answered
    assert all(each.json()["rows"] == wanted for each in answered)
    for each in answers:
        if each.status_code != 200:
            assert "wait for one to end" in refused(each, 429, "rate-limited")
