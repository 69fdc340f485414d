"""Alive, ready, measured, described."""

from __future__ import annotations

import time

import httpx2
from prometheus_client.parser import text_string_to_metric_families

from service.openapi import document
from service.storage.workers import alive, forget, register
from tests.service.acting import Acting
from tests.service.conftest import Front
from upweight.errors import error_classes


def test_a_living_process_says_so(client: httpx2.Client) -> None:
    assert client.get("/healthz").json() == {"alive": True}


def test_without_a_worker_the_service_is_not_ready_and_names_what_is_missing(
    client: httpx2.Client,
) -> None:
    answer = client.get("/readyz")
    assert answer.status_code == 503
    missing = [each["name"] for each in answer.json()["components"] if not each["ready"]]
    assert missing == ["workers"]


def test_with_a_worker_the_service_is_ready(client: httpx2.Client, front: Front) -> None:
    register(front.parts.redis, "w1", {"device": "cpu"}, 600)
    answer = client.get("/readyz")
    assert (answer.status_code, answer.json()["ready"]) == (200, True)
    forget(front.parts.redis, "w1")
    assert client.get("/readyz").status_code == 503


def test_a_worker_that_falls_silent_is_forgotten(client: httpx2.Client, front: Front) -> None:
    register(front.parts.redis, "stays", {"device": "cuda:0"}, 600)
    register(front.parts.redis, "goes", {}, 0.001)
    time.sleep(0.01)
    assert alive(front.parts.redis) == [{"device": "cuda:0", "name": "stays"}]


def test_metrics_count_requests_by_route_and_jobs_by_state(acting: Acting) -> None:
    acting.ready()
    acting.job()
    acting.client.get("/v1/jobs/none")
    text = acting.client.get("/metrics").text
    found = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert found["upweight_jobs", "queued"] == 1
    assert found["upweight_queue_tasks", "high"] == 3
    assert found["upweight_workers",] == 0
    assert found["upweight_http_requests_total", "/v1/jobs", "202", "POST"] >= 1
    assert "none" not in {name for key in found for name in key if name == "/v1/jobs/none"}


def test_the_openapi_document_is_valid(client: httpx2.Client) -> None:
    from openapi_spec_validator import validate  # takes seconds, in each process that collects

    validate(client.get("/openapi.json").json())


def test_every_operation_is_called_by_what_it_does(front: Front) -> None:
    operations = [
        operation for path in document(front.app)["paths"].values() for operation in path.values()
    ]
    titles = [operation["summary"] for operation in operations]
    assert len(set(titles)) == len(titles)
    # FastAPI makes a title of one word out of a function's name.
    assert all(len(title.split()) > 1 and not title.istitle() for title in titles), titles


def test_a_parameter_that_is_wrong_is_named_as_it_was_typed(client: httpx2.Client) -> None:
    answer = client.get("/v1/models", params={"limit": 0}).json()
    assert answer["detail"].startswith("limit: must be")
    assert answer["errors"][0]["pointer"] == "query:limit"


def test_every_error_that_is_documented_is_one_of_ours(front: Front) -> None:
    described = document(front.app)
    assert "HTTPValidationError" not in described["components"]["schemas"]
    types = set()
    for methods in described["paths"].values():
        for operation in methods.values():
            for answer in operation["responses"].values():
                content = answer.get("content", {}).get("application/problem+json", {})
                types |= set(content.get("examples", {}))
    # The SDK's own, which no server says, are not the contract's.
    ours = {name for name, cls in error_classes().items() if cls.__module__ == "upweight.errors"}
    assert types <= ours
    # These are a record's, never an answer's; or come from a server in between.
    records = {"rejected", "computation-failed", "timed-out", "worker-lost"}
    unused = {"request-in-progress", "length-required", "method-not-allowed"}
    assert ours - types == records | unused


def test_every_request_body_has_a_worked_example(front: Front) -> None:
    for path in ("/v1/models", "/v1/datasets", "/v1/jobs"):
        body = document(front.app)["paths"][path]["post"]["requestBody"]
        assert body["content"]["application/json"]["examples"]


def test_the_examples_of_jobs_are_valid_jobs(acting: Acting, front: Front) -> None:
    acting.model("digits-mlp", parameter_count=1000)
    acting.dataset("digits-train")
    acting.dataset("digits-test", 20)
    body = document(front.app)["paths"]["/v1/jobs"]["post"]["requestBody"]
    for example in body["content"]["application/json"]["examples"].values():
        answer = acting.post("/v1/jobs", example["value"])
        assert answer.status_code == 202, answer.text
