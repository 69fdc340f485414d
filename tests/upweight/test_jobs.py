"""Jobs: waited for, watched over broken streams, failed with the words of the worker."""

from __future__ import annotations

import warnings
from typing import Any

import pytest

from tests.upweight import records
from tests.upweight.local_server import Server, answer, events, problem
from upweight import Client, JobCancelled, UntrustedResult, WaitTimedOut, errors
from upweight.schema import InfluencesJob

PATH = f"/v1/jobs/{records.JOB}"
REQUEST = records.job()["request"]
SINGULAR = {"type": "computation-failed", "title": "t", "status": 422, "detail": "H is singular"}


def revisions(client: Client) -> list[tuple[int, str]]:
    return [(job.revision, job.state) for job in client.jobs.events(records.JOB)]


def test_waiting_shows_every_stage_and_ends_with_the_job(server: Server, client: Client) -> None:
    progress = {"done": 3, "total": 9, "unit": "blocks"}
    server.on(
        "GET",
        PATH,
        answer(200, records.job("queued", 1, queue_position=2)),
        answer(200, records.job("running", 2, stage="solve", progress=progress)),
        answer(200, records.job("succeeded", 3)),
    )
    seen: list[Any] = []
    record = client.jobs.wait(records.JOB, on_progress=seen.append)
    assert record.state == "succeeded"
    assert [job.state for job in seen] == ["queued", "running", "succeeded"]


def test_a_bar_is_drawn_where_it_is_wanted(
    server: Server, client: Client, capsys: pytest.CaptureFixture[str]
) -> None:
    progress = {"done": 3, "total": 9, "unit": "blocks"}
    running = records.job("running", 2, stage="solve", progress=progress)
    server.on("GET", PATH, answer(200, running), answer(200, records.job("succeeded", 3)))
    client.jobs.wait(records.JOB, progress=True)
    drawn = capsys.readouterr().err
    assert "solve" in drawn
    assert "33%  3 of 9 blocks" in drawn
    client.jobs.wait(records.JOB)
    assert capsys.readouterr().err == ""


def test_a_failed_job_raises_the_class_of_its_problem(server: Server, client: Client) -> None:
    failed = records.job("failed", problem=SINGULAR, device="cuda:0", attempt=1)
    server.on("GET", PATH, answer(200, failed))
    with pytest.raises(errors.ComputationFailed, match="singular") as caught:
        client.jobs.wait(records.JOB)
    assert f"job {records.JOB}, attempt 1 on cuda:0" in caught.value.__notes__


VERDICT = {
    "solved": {"level": "fair", "text": "3 of 20 right-hand sides did not converge"},
    "applies": {"level": "good", "text": "θ is near an optimum"},
}


def test_a_result_below_the_best_level_is_warned_of_where_it_is_waited_for(
    server: Server, client: Client
) -> None:
    server.on("GET", PATH, answer(200, records.job("succeeded", verdict=VERDICT)))
    with pytest.warns(UntrustedResult, match="3 of 20 right-hand sides") as caught:
        record = client.jobs.wait(records.JOB)
    assert [each.filename for each in caught] == [__file__]
    assert record.verdict is not None
    assert record.verdict.level == "fair"


def test_a_good_result_warns_of_nothing(server: Server, client: Client) -> None:
    good = {"solved": VERDICT["applies"], "applies": VERDICT["applies"]}
    server.on("GET", PATH, answer(200, records.job("succeeded", verdict=good)))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UntrustedResult)
        client.jobs.wait(records.JOB)


def test_the_warning_can_be_filtered_away(server: Server, client: Client) -> None:
    server.on("GET", PATH, answer(200, records.job("succeeded", verdict=VERDICT)))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warnings.simplefilter("ignore", UntrustedResult)
        client.jobs.wait(records.JOB)
    assert caught == []


def test_a_cancelled_job_raises_that_it_was_cancelled(server: Server, client: Client) -> None:
    server.on("GET", PATH, answer(200, records.job("cancelled")))
    with pytest.raises(JobCancelled, match="retry"):
        client.jobs.wait(records.JOB)


def test_waiting_for_a_job_ends_when_its_time_is_up(server: Server, client: Client) -> None:
    server.on("GET", PATH, answer(200, records.job("running")))
    with pytest.raises(WaitTimedOut, match=r"still running after 0\.3 seconds"):
        client.jobs.wait(records.JOB, timeout=0.3)
    assert issubclass(WaitTimedOut, TimeoutError)


def test_events_come_until_the_job_has_ended(server: Server, client: Client) -> None:
    stream = [records.job("queued", 1), records.job("running", 2), records.job("succeeded", 3)]
    server.on("GET", f"{PATH}/events", events(*stream))
    assert revisions(client) == [(1, "queued"), (2, "running"), (3, "succeeded")]
    assert "last-event-id" not in server.asked[0].headers


def test_a_broken_stream_goes_on_after_the_last_event(server: Server, client: Client) -> None:
    server.on(
        "GET",
        f"{PATH}/events",
        events(records.job("queued", 1), records.job("running", 2)),
        problem(503, "unavailable", "restarting"),
        events(records.job("running", 2), records.job("running", 3), records.job("failed", 4)),
    )
    assert [revision for revision, _ in revisions(client)] == [1, 2, 3, 4]
    assert [asked.headers.get("last-event-id") for asked in server.asked] == [None, "2", "2"]


@pytest.mark.parametrize(
    "refusal",
    [
        answer(200, b"<html>", Content_Type="text/html"),
        answer(501),
        answer(502),
    ],
    ids=["no stream", "not there", "always lost"],
)
def test_without_streams_events_are_polled(server: Server, client: Client, refusal: Any) -> None:
    server.on("GET", f"{PATH}/events", refusal)
    server.on(
        "GET",
        PATH,
        answer(200, records.job("queued", 1)),
        answer(200, records.job("queued", 1)),
        answer(200, records.job("succeeded", 5)),
    )
    assert revisions(client) == [(1, "queued"), (5, "succeeded")]


def test_events_of_no_job_raise_that_there_is_none(server: Server, client: Client) -> None:
    with pytest.raises(errors.NotFound):
        revisions(client)


def test_events_without_a_key_raise_that_at_once(server: Server, client: Client) -> None:
    server.on("GET", f"{PATH}/events", problem(401, "unauthorized", "no key"))
    with pytest.raises(errors.Unauthorized):
        revisions(client)
    assert len(server.asked) == 1


def test_a_request_may_be_a_model_of_the_contract(server: Server, client: Client) -> None:
    server.on("POST", "/v1/jobs", answer(202, records.job("queued")))
    client.jobs.create(InfluencesJob.model_validate(REQUEST))
    client.jobs.create(REQUEST)
    first, second = (asked.json for asked in server.asked)
    assert first["kind"] == second["kind"] == "influences"


def test_a_bad_request_is_refused_here_with_pointers(server: Server, client: Client) -> None:
    with pytest.raises(errors.InvalidRequest, match="rtol") as caught:
        client.jobs.create({**REQUEST, "inversion": {"method": "cg", "rtol": 5}})
    assert caught.value.errors[0].pointer.endswith("/rtol")
    assert server.asked == []


def test_cancel_retry_and_delete_go_to_their_addresses(server: Server, client: Client) -> None:
    server.on("POST", f"{PATH}/cancel", answer(202, records.job("cancelling")))
    server.on("POST", f"{PATH}/retry", answer(202, records.job("queued")))
    server.on("DELETE", PATH, answer(204))
    job = client.jobs.cancel(records.JOB)
    assert client.jobs.retry(job).state == "queued"
    client.jobs.delete(job)
    assert ["idempotency-key" in asked.headers for asked in server.asked] == [False, True, False]


def test_lists_are_filtered_by_records(server: Server, client: Client) -> None:
    page = {"items": [records.job()], "has_more": False}
    server.on("GET", "/v1/models/m", answer(200, records.model()))
    server.on("GET", "/v1/jobs", answer(200, page))
    (job,) = client.jobs.list(state="succeeded", model=client.models.get("m"), order="asc")
    assert job.id == records.JOB
    assert {("model", records.MODEL), ("order", "asc")} <= set(server.asked[-1].query)


def test_without_a_bar_the_log_tells_each_stage_once(
    server: Server, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    server.on(
        "GET",
        PATH,
        answer(200, records.job("queued", 1, queue_position=2)),
        answer(200, records.job("running", 2, stage="solve")),
        answer(200, records.job("running", 3, stage="solve")),
        answer(200, records.job("succeeded", 4)),
    )
    with caplog.at_level("INFO", "upweight"):
        client.jobs.wait(records.JOB)
    told = [line.removeprefix(f"{records.JOB}: ") for line in caplog.messages]
    assert told == [records.JOB, "queued, 2 before it", "solve", "succeeded"]


def test_whoever_waits_is_warned_once_where_it_takes_long(
    server: Server, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    progress = {"done": 6, "total": 13_860, "unit": "iterations"}
    running = records.job("running", 2, stage="solve", progress=progress, eta_seconds=864_000)
    after = {**running, "revision": 3, "eta_seconds": 860_000}
    server.on("GET", PATH, *(answer(200, each) for each in (running, after, records.job())))
    client.jobs.wait(records.JOB)
    (warned,) = caplog.records
    assert warned.levelname == "WARNING"
    assert "about 10 d left (6 of 13,860 iterations)" in warned.getMessage()
    assert f"client.jobs.cancel('{records.JOB}') ends it" in warned.getMessage()
