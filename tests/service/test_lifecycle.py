"""The states of a job: terminal ones never change, and a worker that was only slow changes nothing."""

from __future__ import annotations

from typing import Any

import pytest

from service.counters import Counters
from service.lifecycle.states import LeaseLost, Lifecycle, now
from service.storage.keys import new_id
from service.storage.records import Records
from service.storage.redis import connect
from upweight.errors import ComputationFailed, Conflict
from upweight.schema import TERMINAL


@pytest.fixture
def records(redis_url: str) -> Records:
    return Records(connect(redis_url))


@pytest.fixture
def lifecycle(records: Records) -> Lifecycle:
    return Lifecycle(records)


@pytest.fixture
def id(records: Records) -> str:
    request = {"kind": "influences", "inversion": {"method": "cg"}, "priority": "low"}
    document: dict[str, Any] = {
        "id": new_id("job"),
        "state": "queued",
        "labels": {},
        "attempt": 0,
        "request": request,
        "model_id": new_id("model"),
        "created_at": now(),
    }
    records.create("job", "a", document)
    return str(document["id"])


def end(lifecycle: Lifecycle, id: str, state: str) -> None:
    lifecycle.begin("a", id, "worker", "cpu")
    if state == "succeeded":
        lifecycle.succeed("a", id, 1, {})
    elif state == "failed":
        lifecycle.fail("a", id, 1, ComputationFailed("singular"))
    else:
        lifecycle.request_cancel("a", id)
        lifecycle.cancelled("a", id, 1)


@pytest.mark.parametrize("state", sorted(TERMINAL))
def test_a_terminal_state_never_changes(
    lifecycle: Lifecycle, records: Records, id: str, state: str
) -> None:
    end(lifecycle, id, state)
    for late in (
        lambda: lifecycle.succeed("a", id, 1, {}),
        lambda: lifecycle.fail("a", id, 1, ComputationFailed("late")),
        lambda: lifecycle.cancelled("a", id, 1),
        lambda: lifecycle.give_back("a", id, 1),
    ):
        with pytest.raises(LeaseLost):
            late()
    assert lifecycle.begin("a", id, "another", "cpu") is None
    assert records.get("job", "a", id)["state"] == state


def test_only_one_of_two_workers_begins_a_job(lifecycle: Lifecycle, id: str) -> None:
    assert lifecycle.begin("a", id, "one", "cpu") is not None
    assert lifecycle.begin("a", id, "two", "cpu") is None


def test_a_worker_whose_job_was_begun_anew_changes_nothing(
    lifecycle: Lifecycle, records: Records, id: str
) -> None:
    lifecycle.begin("a", id, "slow", "cpu")
    lifecycle.give_back("a", id, 1, lost=True)
    lifecycle.begin("a", id, "other", "cpu")
    with pytest.raises(LeaseLost):
        lifecycle.succeed("a", id, 1, {})
    lifecycle.succeed("a", id, 2, {"info": {}})
    assert records.get("job", "a", id)["state"] == "succeeded"
    assert records.get("job", "a", id)["lost"] == 1


def test_a_queued_job_is_cancelled_at_once(lifecycle: Lifecycle, id: str) -> None:
    assert lifecycle.request_cancel("a", id)["state"] == "cancelled"


def test_a_running_job_is_told_to_stop(lifecycle: Lifecycle, id: str) -> None:
    lifecycle.begin("a", id, "worker", "cpu")
    assert lifecycle.request_cancel("a", id)["state"] == "cancelling"
    assert lifecycle.request_cancel("a", id)["state"] == "cancelling"


def test_what_waits_to_begin_again_is_cancelled_once_its_objects_are_deleted(
    lifecycle: Lifecycle, id: str
) -> None:
    lifecycle.begin("a", id, "worker", "cpu")
    lifecycle.give_back("a", id, 1)
    assert lifecycle.request_cancel("a", id)["state"] == "cancelling"
    assert lifecycle.begin("a", id, "another", "cpu") is None
    assert lifecycle.cancelled("a", id, 1)["state"] == "cancelled"


def test_a_lost_job_that_was_being_cancelled_is_not_begun_again(
    lifecycle: Lifecycle, id: str
) -> None:
    lifecycle.begin("a", id, "worker", "cpu")
    lifecycle.request_cancel("a", id)
    assert lifecycle.give_back("a", id, 1, lost=True)["state"] == "cancelling"
    assert lifecycle.begin("a", id, "another", "cpu") is None


@pytest.mark.parametrize("state", ["succeeded", "failed"])
def test_what_has_ended_is_not_cancelled(lifecycle: Lifecycle, id: str, state: str) -> None:
    end(lifecycle, id, state)
    with pytest.raises(Conflict, match=state):
        lifecycle.request_cancel("a", id)


def test_only_what_failed_or_was_cancelled_is_retried(lifecycle: Lifecycle, id: str) -> None:
    with pytest.raises(Conflict, match="queued"):
        lifecycle.retry("a", id)
    end(lifecycle, id, "failed")
    again = lifecycle.retry("a", id)
    assert (again["state"], again["problem"]) == ("queued", None)


def test_what_lambda_came_to_stays_through_every_attempt(lifecycle: Lifecycle, id: str) -> None:
    lifecycle.begin("a", id, "one", "cpu")
    first = {"rule": "mean", "values": [0.25]}
    assert lifecycle.damped("a", id, 1, first)["damping"] == first
    lifecycle.give_back("a", id, 1, lost=True)
    lifecycle.begin("a", id, "two", "cpu")
    again = lifecycle.damped("a", id, 2, {"rule": "mean", "values": [0.2500001]})
    assert again["damping"] == first
    lifecycle.fail("a", id, 2, ComputationFailed("singular"))
    assert lifecycle.retry("a", id)["damping"] == first


def test_a_job_that_made_no_passes_ends_like_others(
    lifecycle: Lifecycle, records: Records, id: str
) -> None:
    """A retraining tells no passes over the training set, and is counted without."""
    lifecycle.begin("a", id, "one", "cpu")
    lifecycle.succeed("a", id, 1, {"cost": {"engine_seconds": 2.0, "seconds": 3.0}})
    engine = next(
        each for each in Counters(records.redis).collect() if each.name == "upweight_engine_seconds"
    )
    assert [each.value for each in engine.samples] == [2.0]
