"""A job that is cancelled is said to have ended once nothing of it is left, whoever is cut off in the middle."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from service.lifecycle.states import Lifecycle
from service.storage.keys import Document
from service.storage.layout import ResultPaths
from tests.service.acting import NAMESPACE, Acting


class CutOff(Exception):
    """Here the process is gone."""


class Dying(Lifecycle):
    """Of a process that dies before it can say that a job has ended."""

    def cancelled(self, namespace: str, id: str, attempt: int) -> Document:
        """Never."""
        raise CutOff


@pytest.fixture
def cancelling(ready: Acting) -> Document:
    """A job whose worker is gone, with something stored."""
    id = ready.job()["id"]
    ready.begin(id)
    ready.parts.objects.put(ResultPaths(NAMESPACE, id).plan, b"{}")
    ready.parts.lifecycle.request_cancel(NAMESPACE, id)
    return ready.parts.records.get("job", NAMESPACE, id)


def stored(ready: Acting, job: Document) -> list[Any]:
    """What there is of a job."""
    return list(ready.parts.objects.walk(ResultPaths(NAMESPACE, job["id"]).prefix))


def state(ready: Acting, job: Document) -> str:
    """As a user would see it."""
    return str(ready.client.get(f"/v1/jobs/{job['id']}").json()["state"])


def test_who_is_cut_off_has_deleted_and_said_nothing_and_the_next_ends_it(
    ready: Acting, cancelling: Document
) -> None:
    ending = ready.parts.ending
    with pytest.raises(CutOff):
        replace(ending, lifecycle=Dying(ready.parts.records)).cancelled_if_free(
            NAMESPACE, cancelling
        )
    assert (stored(ready, cancelling), state(ready, cancelling)) == ([], "cancelling")
    assert ending.cancelled_if_free(NAMESPACE, cancelling)
    assert state(ready, cancelling) == "cancelled"


def test_a_second_one_leaves_it_to_the_first(ready: Acting, cancelling: Document) -> None:
    lease = f"{cancelling['id']}.ending"
    assert ready.parts.ending.leases.take(lease, "another process")
    assert not ready.parts.ending.cancelled_if_free(NAMESPACE, cancelling)
    assert (len(stored(ready, cancelling)), state(ready, cancelling)) == (1, "cancelling")
    ready.parts.ending.leases.release(lease, "another process")
    assert ready.parts.ending.cancelled_if_free(NAMESPACE, cancelling)
    assert (stored(ready, cancelling), state(ready, cancelling)) == ([], "cancelled")


def test_who_comes_late_leaves_the_users_next_try_alone(
    ready: Acting, cancelling: Document
) -> None:
    ready.parts.ending.cancelled_if_free(NAMESPACE, cancelling)
    ready.client.post(f"/v1/jobs/{cancelling['id']}/retry")
    ready.parts.objects.put(ResultPaths(NAMESPACE, cancelling["id"]).plan, b"{}")
    assert ready.parts.ending.cancelled_if_free(NAMESPACE, cancelling)
    assert (len(stored(ready, cancelling)), state(ready, cancelling)) == (1, "queued")


def test_a_block_in_hand_holds_it_up(ready: Acting, cancelling: Document) -> None:
    grids, id = ready.parts.grids, cancelling["id"]
    grids.enter(id, "solve-0")
    assert not ready.parts.ending.cancelled_if_free(NAMESPACE, cancelling)
    assert (len(stored(ready, cancelling)), state(ready, cancelling)) == (1, "cancelling")
    grids.leave(id, "solve-0")
    assert ready.parts.ending.cancelled_if_free(NAMESPACE, cancelling)
    assert (stored(ready, cancelling), state(ready, cancelling)) == ([], "cancelled")
