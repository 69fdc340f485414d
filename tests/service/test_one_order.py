"""Random pairs of actions on one job at once, through two front ends that are processes of their own, and by workers.

A model in plain Python says what each action answers and does. After each pair, answers and outcome must be those of
one order or of the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Barrier
from typing import Any, cast
from uuid import uuid4

import httpx2
import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from service.lifecycle.states import LeaseLost
from service.storage.objects import Objects
from service.storage.queue import RUN_JOB
from service.storage.redis import connect
from service.stores import Stores
from tests.service.acting import NAMESPACE, Acting
from tests.service.conftest import small_settings
from tests.service.test_process import running
from upweight.errors import NotFound, WorkerLost

EXAMPLES, STEPS = 10, 30
PRIORITY = "default"
ENDED = ("succeeded", "failed", "cancelled")


@dataclass(frozen=True)
class Job:
    """What the model knows of the job: `state` is `none` before it is sent, and `gone` once it is deleted."""

    state: str = "none"
    attempt: int = 0
    retried: bool = False  # by the request with a key

    @property
    def seen(self) -> tuple[str, int]:
        """What can be seen of it from outside."""
        return self.state, self.attempt


Said = str
Done = tuple[Said, Job]


def submit(job: Job, age: int) -> Done:
    if job.state == "none":
        return "202", Job("queued")
    return ("404" if job.state == "gone" else "202"), job


def cancel(job: Job, age: int) -> Done:
    if job.state in ("none", "gone"):
        return "404", job
    if job.state in ("succeeded", "failed"):
        return "409", job
    if job.state == "queued":  # nobody has it in hand
        return "202", replace(job, state="cancelled")
    return "202", replace(job, state="cancelling") if job.state == "running" else job


def retry(job: Job, age: int) -> Done:
    if job.state in ("none", "gone"):
        return "404", job
    if job.state not in ("failed", "cancelled"):
        return "409", job
    return "202", replace(job, state="queued")


def retry_once(job: Job, age: int) -> Done:
    if job.retried and job.state != "gone":
        return "202", job
    said, after = retry(job, age)
    return said, replace(after, retried=True) if said == "202" else after


def delete(job: Job, age: int) -> Done:
    if job.state in ("none", "gone"):
        return "404", job
    return ("204", Job("gone")) if job.state in ENDED else ("409", job)


def take(job: Job, age: int) -> Done:
    if job.state != "queued":
        return "nothing", job
    return "begun", replace(job, state="running", attempt=job.attempt + 1)


def give_back(job: Job, age: int) -> Done:
    if job.state in ("none", "gone"):
        return "gone", job
    if not _is_mine(job, age):
        return "not mine", job
    # One that is being cancelled is ended by the worker that gives it back.
    return "said", replace(job, state="queued" if job.state == "running" else "cancelled")


def succeed(job: Job, age: int) -> Done:
    return _end(job, age, "succeeded")


def fail(job: Job, age: int) -> Done:
    return _end(job, age, "failed")


def stop(job: Job, age: int) -> Done:
    mine = _is_mine(job, age) and job.state == "cancelling"
    return "", replace(job, state="cancelled") if mine else job


def _end(job: Job, age: int, state: str) -> Done:
    if job.state in ("none", "gone"):
        return "gone", job
    return ("said", replace(job, state=state)) if _is_mine(job, age) else ("not mine", job)


def _is_mine(job: Job, age: int) -> bool:
    """Whether the worker of the newest attempt, or of one so much older, has it."""
    return age == 0 and job.state in ("running", "cancelling")


MODEL: dict[str, Callable[[Job, int], Done]] = {
    each.__name__: each
    for each in (submit, cancel, retry, retry_once, delete, take, give_back, succeed, fail, stop)
}
ENDS = ("give_back", "succeed", "fail", "stop")
BY_WORKERS = ("take", *ENDS)


class Real:
    """The same actions on the service: those of users by HTTP, one client a front end, those of workers past it."""

    def __init__(self, stores: Stores, clients: list[httpx2.Client]) -> None:
        self.stores, self.clients = stores, clients
        self.acting = Acting(clients[0], cast(Any, stores))
        self.acting.ready()
        self.id, self.key = "", ""

    def begin_anew(self) -> None:
        """Another job, which is not sent yet."""
        self.id, self.key = "", uuid4().hex

    def at_once(self, actions: list[tuple[str, int]], attempt: int) -> list[Said]:
        """What two actions answer that begin together; `attempt` is the newest before."""
        together = Barrier(len(actions))

        def act(number: int) -> Said:
            name, age = actions[number]
            together.wait()
            if name in BY_WORKERS:
                return self._by_worker(name, attempt - age)
            return self._by_user(self.clients[number], name)

        with ThreadPoolExecutor(len(actions)) as pool:
            return list(pool.map(act, range(len(actions))))

    def _by_user(self, client: httpx2.Client, name: str) -> Said:
        path, key = f"/v1/jobs/{self.id or 'job_01ARZ3NDEKTSV4RRFFQ69G5FAV'}", {}
        if name in ("submit", "retry_once"):
            key = {"Idempotency-Key": self.key}
        if name == "submit":
            answer = client.post("/v1/jobs", json=self.acting.job_request(), headers=key)
            if answer.status_code == 202:
                id = answer.json()["id"]
                assert self.id in ("", id), "one key made two jobs"
                self.id = id
        elif name == "delete":
            answer = client.delete(path)
        else:
            answer = client.post(f"{path}/{name.removesuffix('_once')}", headers=key)
        return str(answer.status_code)

    def _by_worker(self, name: str, attempt: int) -> Said:
        lifecycle, id = self.stores.lifecycle, self.id
        try:
            if name == "take":
                return self._taken()
            if name == "give_back":
                return self._given_back(attempt)
            if name == "succeed":
                lifecycle.succeed(NAMESPACE, id, attempt, {"info": {}})
            elif name == "fail":
                lifecycle.fail(NAMESPACE, id, attempt, WorkerLost("for the test"))
            elif lifecycle.is_cancelling(NAMESPACE, id, attempt):
                self._end_cancelled()
                return ""
        except LeaseLost:
            return "" if name == "stop" else "not mine"
        except NotFound:
            return "" if name == "stop" else "gone"
        return "" if name == "stop" else "said"

    def _taken(self) -> Said:
        """As a worker does: the task goes out of the queue first, then the job is begun."""
        try:
            job = self.stores.records.get("job", NAMESPACE, self.id)
            self.stores.queue.remove(self.id, job["attempt"], PRIORITY)
            begun = self.stores.lifecycle.begin(NAMESPACE, self.id, f"w-{uuid4().hex}", "cpu")
        except NotFound:
            return "nothing"
        return "nothing" if begun is None else "begun"

    def _given_back(self, attempt: int) -> Said:
        given = self.stores.lifecycle.give_back(NAMESPACE, self.id, attempt)
        if given["state"] == "queued":
            self.stores.queue.enqueue(RUN_JOB, NAMESPACE, self.id, attempt=attempt)
        else:
            self._end_cancelled()
        return "said"

    def _end_cancelled(self) -> None:
        try:
            job = self.stores.records.get("job", NAMESPACE, self.id)
        except NotFound:
            return
        self.stores.ending.cancelled_if_free(NAMESPACE, job)

    def seen(self) -> tuple[str, int]:
        """Where the job stands; a queued one is in its queue."""
        if not self.id:
            return "none", 0
        try:
            job = self.stores.records.get("job", NAMESPACE, self.id)
        except NotFound:
            return "gone", 0
        if job["state"] == "queued":
            assert self.stores.queue.position(self.id, job["attempt"], PRIORITY) is not None
        return str(job["state"]), int(job["attempt"])


@pytest.fixture
def real(redis_server: Any, redis_url: str, tmp_path: Path) -> Iterator[Real]:
    """Two front ends as processes over one Redis and one folder."""
    limits = {"UPWEIGHT_NAMESPACE_JOBS": "100000"}
    values = small_settings(redis_server, tmp_path)
    stores = Stores.over(values, connect(redis_url), Objects.of(values))

    @contextmanager
    def front() -> Iterator[httpx2.Client]:
        with (
            running(redis_url, tmp_path, **limits, UPWEIGHT_FACTORIES="") as process,
            httpx2.Client(base_url=process.url, timeout=120, trust_env=False) as client,
        ):
            yield client

    with front() as one, front() as other:
        yield Real(stores, [one, other])


action = st.tuples(st.sampled_from(sorted(MODEL)), st.sampled_from([0, 0, 0, 1]))


def test_whatever_happens_at_once_is_as_one_after_the_other(real: Real) -> None:
    class Pairs(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            real.begin_anew()
            # What the job may be: two orders may look alike, and differ in what is not seen.
            self.possible = {Job()}

        @rule(one=action, other=action)
        def both(self, one: tuple[str, int], other: tuple[str, int]) -> None:
            if next(iter(self.possible)).state == "gone":
                real.begin_anew()
                self.possible = {Job()}
            if not real.id and "submit" not in (one[0], other[0]):
                one = ("submit", 0)
            if one[0] in ENDS and other[0] in ENDS and one[1] == other[1]:
                other = ("take", 0)  # a worker ends its attempt in one way
            attempt = next(iter(self.possible)).attempt
            answers = real.at_once([one, other], attempt)
            seen = real.seen()
            after = set(self._after(one, other, answers, seen, attempt))
            assert after, f"{self.possible}: {one}, {other} answered {answers}, and it is {seen}"
            self.possible = after

        def _after(
            self,
            one: tuple[str, int],
            other: tuple[str, int],
            answers: list[Said],
            seen: tuple[str, int],
            attempt: int,
        ) -> Iterator[Job]:
            for job in self.possible:
                for turned in (False, True):
                    said, end = _in_turn([other, one] if turned else [one, other], job, attempt)
                    if (said[::-1] if turned else said) == answers and end.seen == seen:
                        yield end

    # Nothing is tried again to be made smaller: what two processes do at once need not come back.
    once = settings(
        max_examples=EXAMPLES,
        stateful_step_count=STEPS,
        deadline=None,
        phases=[Phase.generate],
        database=None,
    )
    run_state_machine_as_test(Pairs, settings=once)


def _in_turn(actions: list[tuple[str, int]], job: Job, attempt: int) -> tuple[list[Said], Job]:
    """What the model says of actions one after the other; the workers' are of attempts that were begun before."""
    said = []
    for name, age in actions:
        answer, job = MODEL[name](job, age + job.attempt - attempt)
        said.append(answer)
    return said, job
