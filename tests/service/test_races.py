"""Two actions on one job at once: what they answer, and what comes of it, is that of one order or of the other.

Users' actions go to two front ends on one Redis by turns.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Barrier

import httpx2
import pytest

from service.lifecycle.states import LeaseLost
from service.local.redis_server import RedisServer
from service.storage.queue import RUN_JOB
from tests.service.acting import NAMESPACE, Acting, problem
from tests.service.conftest import Front, run_front, small_settings
from upweight.errors import NotFound, WorkerLost

Outcome = str


class Doors(Acting):
    """Acts through two front ends by turns."""

    def __init__(self, front: Front, *clients: httpx2.Client) -> None:
        super().__init__(clients[0], front.parts)
        self._clients = itertools.cycle(clients)

    def door(self) -> httpx2.Client:
        """The next one."""
        return next(self._clients)


@pytest.fixture
def acting(redis_server: RedisServer, redis_url: str, tmp_path: Path) -> Iterator[Doors]:
    """In a namespace that may have many jobs."""
    settings = small_settings(redis_server, tmp_path, namespace_jobs=10_000)
    with (
        contextmanager(run_front)(settings) as front,
        contextmanager(run_front)(settings) as other,
        httpx2.Client(base_url=front.url, timeout=120, trust_env=False) as client,
        httpx2.Client(base_url=other.url, timeout=120, trust_env=False) as second,
    ):
        yield Doors(front, client, second)


ROUNDS = 3


def queued(acting: Doors) -> str:
    return str(acting.job()["id"])


def running(acting: Doors) -> str:
    id = queued(acting)
    acting.begin(id)
    return id


def queued_again(acting: Doors) -> str:
    id = running(acting)
    acting.parts.lifecycle.give_back(NAMESPACE, id, 1)
    acting.parts.queue.enqueue(RUN_JOB, NAMESPACE, id, attempt=1)
    return id


def failed(acting: Doors) -> str:
    id = running(acting)
    acting.parts.lifecycle.fail(NAMESPACE, id, 1, WorkerLost("for the test"))
    return id


def cancelled(acting: Doors) -> str:
    id = queued(acting)
    assert acting.door().post(f"/v1/jobs/{id}/cancel").status_code == 202
    return id


def by_user(method: str, path: str, **headers: str) -> Callable[[Doors, str], Outcome]:
    def act(acting: Doors, id: str) -> Outcome:
        given = {name: value.format(id=id) for name, value in headers.items()}
        answer = acting.door().request(method, path.format(id=id), headers=given)
        return str(answer.status_code)

    return act


def begin(acting: Doors, id: str) -> Outcome:
    """What a worker does that has taken the job from the queue."""
    try:
        job = acting.parts.lifecycle.begin(NAMESPACE, id, "acting", "cpu")
    except NotFound:
        return "gone"
    return "begun" if job is not None else "not for me"


def fail(acting: Doors, id: str) -> Outcome:
    """What the worker of the first attempt says at its end."""
    try:
        acting.parts.lifecycle.fail(NAMESPACE, id, 1, WorkerLost("for the test"))
    except LeaseLost:
        return "not mine"
    except NotFound:
        return "gone"
    return "said"


STATES = {each.__name__: each for each in (queued, running, queued_again, failed, cancelled)}
ACTIONS: dict[str, Callable[[Doors, str], Outcome]] = {
    "cancel": by_user("POST", "/v1/jobs/{id}/cancel"),
    "retry": by_user("POST", "/v1/jobs/{id}/retry"),
    "retry once": by_user("POST", "/v1/jobs/{id}/retry", **{"Idempotency-Key": "{id}"}),
    "delete": by_user("DELETE", "/v1/jobs/{id}"),
    "begin": begin,
    "fail": fail,
}


def standing(acting: Doors, id: str) -> tuple[str, int]:
    """Where the job stands, once it is seen that a queued one is in its queue."""
    try:
        job = acting.parts.records.get("job", NAMESPACE, id)
    except NotFound:
        return "gone", 0
    if job["state"] == "queued":
        waits = acting.parts.queue.position(id, job["attempt"], job["request"]["priority"])
        assert waits is not None, "a queued job that is in no queue waits for recovery"
    return str(job["state"]), int(job["attempt"])


def at_once(acting: Doors, id: str, *names: str) -> list[Outcome]:
    """The outcomes of actions that begin together."""
    together = Barrier(len(names))

    def act(name: str) -> Outcome:
        together.wait()
        return ACTIONS[name](acting, id)

    with ThreadPoolExecutor(len(names)) as pool:
        return list(pool.map(act, names))


@pytest.mark.parametrize("state", STATES)
def test_two_actions_at_once_are_as_one_after_the_other(acting: Doors, state: str) -> None:
    acting.ready()
    for first, second in itertools.combinations_with_replacement(ACTIONS, 2):
        orders = set()
        for names in ((first, second), (second, first)):
            id = STATES[state](acting)
            said = {index: ACTIONS[name](acting, id) for index, name in enumerate(names)}
            turned = names != (first, second)
            orders.add((said[turned], said[not turned], standing(acting, id)))
        if first == second:
            orders |= {(b, a, end) for a, b, end in orders}
        for _ in range(ROUNDS):
            id = STATES[state](acting)
            one, other = at_once(acting, id, first, second)
            assert (one, other, standing(acting, id)) in orders, (first, second)


def test_retries_with_one_key_at_once_are_one_retry(acting: Doors) -> None:
    acting.ready()
    for _ in range(10):
        id = cancelled(acting)
        assert at_once(acting, id, *["retry once"] * 4) == ["202"] * 4
        assert standing(acting, id) == ("queued", 0)


def test_a_retry_that_is_sent_again_after_the_job_failed_again_is_none(acting: Doors) -> None:
    acting.ready()
    id = failed(acting)
    key = {"Idempotency-Key": "once"}
    assert acting.door().post(f"/v1/jobs/{id}/retry", headers=key).status_code == 202
    acting.begin(id)
    acting.parts.lifecycle.fail(NAMESPACE, id, 2, WorkerLost("again"))
    assert acting.door().post(f"/v1/jobs/{id}/retry", headers=key).json()["state"] == "failed"
    key = {"Idempotency-Key": "another"}
    assert acting.door().post(f"/v1/jobs/{id}/retry", headers=key).json()["state"] == "queued"
    problem(acting.door().post(f"/v1/jobs/{id}/retry"), 409, "conflict")
