"""The jobs of a chaotic run: a few kinds again and again, each of which has one right answer, of several tenants."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from tests.faults.chaos.kinds import KINDS, request
from tests.faults.chaos.tenants import Tenant
from tests.faults.watched import PATIENCE
from upweight import UpweightError
from upweight.schema import TERMINAL, JobRecord, JobState

Answer = dict[str, str]  # digests by the name of the object
CLEARED_AT_ONCE = 6  # jobs that a tenant deletes whose quota is met


@dataclass
class Sent:
    """A job that the service has accepted."""

    id: str
    kind: str
    tenant: Tenant
    cancelled: bool = False  # or may be: nobody heard what became of it
    deleted: bool = False  # or is being
    at: float = field(default_factory=time.monotonic)


class Jobs:
    """Sends jobs past the SDK's functions, so that each request and its repetition are in our hands."""

    def __init__(self, tenants: Sequence[Tenant], choice: random.Random) -> None:
        self._tenants, self._choice = tenants, choice
        self.sent: dict[str, Sent] = {}
        self.repeated = 0  # requests that were lost, or came to a service that was not ready
        self.twice = 0  # keys
        self.actions: Counter[str] = Counter()  # by what was answered
        self.losses: list[str] = []
        # Told of each result before it is deleted: its record and what is stored.
        self.look: Callable[[Sent, JobRecord, Answer], None] = lambda *_: None
        self._kinds: list[str] = []

    def send(self, number: int) -> None:
        """One more job; a request that was lost on its way is repeated with its key, as the SDK does."""
        if not self._kinds:  # each kind comes before any comes again
            self._kinds = self._choice.sample(sorted(KINDS), len(KINDS))
        kind, tenant = self._kinds.pop(), self._choice.choice(self._tenants)
        key = f"chaos-{number}"
        answer = self._answered(tenant, kind, key)
        if answer.status_code == 403:
            self.actions["sent: over quota"] += 1
            self._clear_away(tenant)
            return
        id = answer.json()["id"]
        again = self._once(tenant, kind, key)
        if again is not None and again.status_code == 202:
            assert again.json()["id"] == id, "one key made two jobs"
            self.twice += 1
        self.sent[id] = Sent(id, kind, tenant)

    def _answered(self, tenant: Tenant, kind: str, key: str) -> Any:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            answer = self._once(tenant, kind, key)
            if answer is not None and answer.status_code in (202, 403):
                return answer
            if answer is not None and answer.status_code != 503:
                self.losses.append(f"a job was answered {answer.status_code}: {answer.text[:300]}")
            self.repeated += 1
            time.sleep(0.3)
        raise AssertionError("the service did not take a job for minutes")

    def _once(self, tenant: Tenant, kind: str, key: str) -> Any:
        """None where there was no answer."""
        headers = {"Idempotency-Key": key}
        try:
            return tenant.http.post("/v1/jobs", json=request(kind), headers=headers)
        except Exception:
            return None

    def cancel_one(self) -> None:
        """Some job that has not ended, in whatever state it is by then."""
        job = self._some(lambda job: not job.cancelled, latest=6)
        if job is None:
            return
        try:
            job.tenant.client.jobs.cancel(job.id)
            job.cancelled = True
            self.actions["cancelled"] += 1
        except UpweightError as error:
            # It has ended, or nobody answers: then it may or may not be cancelled.
            self._refused("cancel", error, 404, 409)
            job.cancelled = job.cancelled or self._may_be_cancelled(job)

    def retry_one(self) -> None:
        """Some job that was cancelled or has failed begins again."""
        job = self._some(lambda job: self._state(job) in (JobState.CANCELLED, JobState.FAILED))
        if job is None:
            return
        try:
            job.tenant.client.jobs.retry(job.id)
            job.cancelled = False
            self.actions["retried"] += 1
        except UpweightError as error:
            self._refused("retry", error, 403, 409)

    def delete_one(self) -> None:
        """Some job, with its result, if it has ended."""
        job = self._some(lambda _: True)
        if job is not None:
            self._delete(job)

    def _clear_away(self, tenant: Tenant) -> None:
        """The oldest go first, so that there is room again."""
        old = [job for job in self.sent.values() if job.tenant is tenant and not job.deleted]
        for job in old[:CLEARED_AT_ONCE]:
            self._delete(job)

    def _delete(self, job: Sent) -> None:
        try:
            record = job.tenant.client.jobs.get(job.id)
            if record.state not in TERMINAL:
                self.actions["delete: refused"] += 1
                return
            if record.state is JobState.SUCCEEDED:
                self.look(job, record, self.answer(job))
            job.deleted = True
            job.tenant.client.jobs.delete(job.id)
            self.actions["deleted"] += 1
        except UpweightError as error:
            self._refused("delete", error, 404)

    def _some(self, fits: Callable[[Sent], bool], latest: int = 30) -> Sent | None:
        """One of the latest."""
        there = [job for job in self.sent.values() if not job.deleted]
        found = [job for job in there[-latest:] if fits(job)]
        return self._choice.choice(found) if found else None

    def _refused(self, action: str, error: UpweightError, *allowed: int) -> None:
        """Notes it; anything but those answers, a busy service's and none at all is a loss."""
        self.actions[f"{action}: {error.status or 'no answer'}"] += 1
        if error.status not in (None, 0, 429, 503, *allowed):
            self.losses.append(f"{action} was answered {error.status}: {error}")

    def _state(self, job: Sent) -> JobState | None:
        try:
            return job.tenant.client.jobs.get(job.id).state
        except UpweightError:
            return None

    def _may_be_cancelled(self, job: Sent) -> bool:
        return self._state(job) in (None, JobState.CANCELLED, JobState.CANCELLING)

    def unfinished(self) -> int:
        """How many are still to be done; as many as were sent while nobody answers."""
        try:
            return sum(
                len(list(tenant.client.jobs.list(state=state)))
                for tenant in self._tenants
                for state in (JobState.QUEUED, JobState.RUNNING, JobState.CANCELLING)
            )
        except UpweightError:
            return len(self.sent)

    def finish_deleting(self) -> None:
        """Deletions of which nobody heard are asked for again, as users do."""
        for job in self.sent.values():
            if job.deleted:
                try:
                    job.tenant.client.jobs.delete(job.id)
                except UpweightError as error:
                    if error.status != 404:
                        self.losses.append(f"{job.id} can't be deleted: {error}")

    def records(self, ids: Iterable[str]) -> dict[str, JobRecord | None]:
        """Some jobs that were accepted, None for one that is missing."""
        found: dict[str, JobRecord | None] = {}
        for id in ids:
            try:
                found[id] = self.sent[id].tenant.client.jobs.get(id)
            except UpweightError as error:
                if error.status != 404:
                    raise
                found[id] = None
        return found

    def untold(self) -> Mapping[str, str]:
        """Tenants by the ids of their jobs of which nobody was told."""
        return {
            job.id: tenant.name
            for tenant in self._tenants
            for job in tenant.client.jobs.list()
            if job.id not in self.sent
        }

    def answer(self, job: Sent) -> Answer:
        """Digests of what is stored of its result. Raises UpweightError."""
        return answer_of(job.tenant, job.id)


def answer_of(tenant: Tenant, id: str) -> Answer:
    """Without what says when it was made, by whom and for which job: manifest and plan."""
    files = tenant.client.jobs.result(id).files().files
    return {
        each.path: each.digest
        for each in files
        if each.digest is not None and each.path not in ("manifest.json", "plan.json")
    }


def calm(tenant: Tenant, kinds: Iterable[str]) -> dict[str, str]:
    """Jobs to which nothing happens, side by side, all done; their ids by their kinds."""
    ids = {}
    for kind in kinds:
        answer = tenant.http.post(
            "/v1/jobs", json=request(kind), headers={"Idempotency-Key": f"calm-{uuid4().hex}"}
        )
        assert answer.status_code == 202, answer.text
        ids[kind] = str(answer.json()["id"])
    for id in ids.values():
        while (job := tenant.client.jobs.get(id)).state not in TERMINAL:
            time.sleep(0.25)
        assert job.state is JobState.SUCCEEDED, job
    return ids
