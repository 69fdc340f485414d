"""What an operator sees of work: one trace from the request to the stages of its task, metrics, results that expire."""

from __future__ import annotations

import json
from collections.abc import Iterator

import httpx2
import pytest

from tests.operation.collector import Collector
from tests.operation.conftest import Upgrading
from tests.operation.exposition import samples
from tests.patience import PATIENCE

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.fixture(scope="module")
def at_work(upgrading: Upgrading) -> Iterator[Upgrading]:
    with upgrading.newer_worker():
        upgrading.service.wait(
            lambda: samples(upgrading.service.url)("upweight_workers") == 2, PATIENCE, "not there"
        )
        yield upgrading


def test_a_trace_leads_from_the_request_to_the_stages_of_its_job(
    at_work: Upgrading, collector: Collector
) -> None:
    id = at_work.submit(traceparent=f"00-{TRACE}-{PARENT}-01")
    at_work.client.jobs.wait(id, timeout=PATIENCE, progress=False)
    found = collector.of(TRACE, {"POST /v1/jobs", "run_job", "load", "factorise", "up"})
    request, task = found["POST /v1/jobs"], found["run_job"]
    assert (request.parent, request.service) == (PARENT, "upweight-front")
    assert request.attributes["http.response.status_code"] == 202
    assert (task.parent, task.service) == (request.id, "upweight-worker")
    assert str(task.attributes["task"]).startswith(id)
    stages = [span for span in found.values() if span.parent == task.id]
    assert {"load", "factorise", "up"} <= {span.name for span in stages}
    assert sum(span.seconds for span in stages) <= task.seconds
    lines = [json.loads(line) for line in at_work.log("newer").splitlines()]
    assert any(
        line["event"] == "task-began" and f"-{request.id}-" in line.get("traceparent", "")
        for line in lines
    )


def test_metrics_tell_what_the_workers_did(at_work: Upgrading) -> None:
    at_work.client.jobs.wait(at_work.submit(), timeout=PATIENCE, progress=False)
    found = samples(at_work.service.url)
    of = {"kind": "influences", "method": "direct"}
    assert found("upweight_jobs_ended_total", **of, state="succeeded") >= 1
    assert found("upweight_job_run_seconds_count", **of) >= 1
    assert found("upweight_job_run_seconds_bucket", **of, le="+Inf") == found(
        "upweight_job_run_seconds_count", **of
    )
    assert found("upweight_job_wait_seconds_count", queue="default") >= 1
    assert found("upweight_hessian_passes_total", **of) > 0
    assert found("upweight_tasks_total", task="check_model", outcome="done") >= 1
    assert found("upweight_workers") == 2
    assert found("upweight_worker_memory_bytes", kind="resident_peak", device="cpu") > 50e6
    assert found("upweight_http_received_bytes_total", route="/v1/blobs/{digest}") > 500
    assert found("upweight_http_sent_bytes_total", route="/v1/jobs/{id}") > 500
    assert found("upweight_records_not_copied") >= 0
    for name, most in (
        ("upweight_queue_oldest_seconds", 0),
        ("upweight_worker_heartbeat_age_seconds", 15),
    ):
        at_work.service.wait(
            lambda name=name, most=most: samples(at_work.service.url)(name) <= most,  # type: ignore[misc]
            PATIENCE,
            f"{name} stays above {most}",
        )


def test_every_block_of_a_large_job_is_in_the_trace_of_its_request(
    at_work: Upgrading, collector: Collector
) -> None:
    trace = TRACE[::-1]
    cut = {"spread": True, "test_rows": 1, "train_rows": 7}
    id = at_work.submit(blocks=cut, traceparent=f"00-{trace}-{PARENT}-01")
    at_work.client.jobs.wait(id, timeout=PATIENCE, progress=False)
    request = collector.of(trace, {"POST /v1/jobs", "run_job", "run_block"})["POST /v1/jobs"]
    at_work.service.wait(
        lambda: len(collector.named(trace, "run_block")) >= 2 * 3, PATIENCE, "missing"
    )
    assert {span.parent for span in collector.named(trace, "run_block")} == {request.id}


def test_a_result_expires_by_a_workers_hand(at_work: Upgrading) -> None:
    id = at_work.submit()
    at_work.client.jobs.wait(id, timeout=PATIENCE, progress=False)
    at_work.service.wait(
        lambda: at_work.client.jobs.get(id).expired_at is not None, PATIENCE, "not expired"
    )
    answer = httpx2.get(f"{at_work.service.url}/v1/jobs/{id}/influences", trust_env=False)
    assert (answer.status_code, answer.json()["type"]) == (410, "result-expired")
    assert any("result-expired" in at_work.log(which) for which in ("newer", "older"))
