"""The jobs of a chaotic run: a few kinds again and again, each of which has one right answer."""

from __future__ import annotations

import random
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import torch
from torch import nn

from tests.faults.watched import PATIENCE
from upweight import Client, UpweightError
from upweight.schema import TERMINAL, JobRecord, JobState

MODEL, ROWS = "chaos-net", "chaos-rows"
# Each step is over other rows, so that every one counts.
_LISSA = {"method": "lissa", "scale": 1e7, "rtol": 1e-15, "batch_size": 250}
_COMMON: dict[str, Any] = {
    "kind": "influences",
    "model": MODEL,
    "train": {"dataset": ROWS},
    "test": {"dataset": ROWS, "rows": "0:4"},
    "hessian_regularization": 1.0,
    "precision": "float64",
    "reuse": False,
}
WHOLE = {"matrix": True, "top": 5, "mean": True, "factors": True}
KINDS: dict[str, dict[str, Any]] = {
    "direct": {"inversion": {"method": "direct"}, "keep": WHOLE},
    "cg": {"inversion": {"method": "cg"}, "keep": WHOLE},
    "arnoldi": {"inversion": {"method": "arnoldi", "rank_estimate": 20}, "keep": {"top": 5}},
    "short": {"inversion": {**_LISSA, "maxiter": 300}, "keep": WHOLE},
    "long": {"inversion": {**_LISSA, "maxiter": 1500}, "keep": WHOLE},
    "longer": {"inversion": {**_LISSA, "maxiter": 3000}, "test": {"dataset": ROWS, "rows": "4:8"}},
}
Answer = dict[str, str]  # digests by the name of the object


@dataclass
class Sent:
    """A job that the service has accepted."""

    id: str
    kind: str
    cancelled: bool = False
    at: float = field(default_factory=time.monotonic)


def register(client: Client) -> None:
    """The model and the rows."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 3)).double()
    x = torch.randn(300, 8, dtype=torch.float64)
    client.models.register(MODEL, network, example=x[:2], loss="cross_entropy")
    client.datasets.register(ROWS, x=x, y=(x[:, 0] > 0).long() + (x[:, 1] > 0))


class Jobs:
    """Sends jobs past the SDK's functions, so that each request and its repetition are in our hands."""

    def __init__(self, client: Client, http: Any, choice: random.Random) -> None:
        self.client, self._http, self._choice = client, http, choice
        self.sent: dict[str, Sent] = {}
        self.refused = 0
        self.twice = 0

    def calm(self, kind: str) -> str:
        """A job of a kind to which nothing happens, done."""
        id = self._post(kind, f"calm-{uuid4().hex}").json()["id"]
        while (job := self.client.jobs.get(id)).state not in TERMINAL:
            time.sleep(0.05)
        assert job.state is JobState.SUCCEEDED, job
        return str(id)

    def send(self, number: int) -> None:
        """One more job; a request that was lost on its way is repeated with its key, as the SDK does."""
        kind = self._choice.choice(sorted(KINDS))
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            try:
                answer = self._post(kind, f"chaos-{number}")
            except OSError:
                answer = None
            if answer is not None and answer.status_code == 202:
                break
            self.refused += 1
            time.sleep(0.3)
        else:
            raise AssertionError("the service did not take a job for minutes")
        id = answer.json()["id"]
        again = self._repeat(kind, number)
        if again is not None:
            assert again == id, "one key made two jobs"
            self.twice += 1
        self.sent[id] = Sent(id, kind)

    def _repeat(self, kind: str, number: int) -> str | None:
        try:
            answer = self._post(kind, f"chaos-{number}")
        except OSError:
            return None
        return str(answer.json()["id"]) if answer.status_code == 202 else None

    def _post(self, kind: str, key: str) -> Any:
        body = {**_COMMON, "keep": {"matrix": True}, **KINDS[kind]}
        headers = {"Idempotency-Key": key}
        try:
            return self._http.post("/v1/jobs", json=body, headers=headers)
        except Exception as error:
            raise OSError(str(error)) from error

    def cancel_one(self) -> None:
        """Some job that has not ended, in whatever state it is by then."""
        open_jobs = [job for job in self.sent.values() if not job.cancelled]
        if not open_jobs:
            return
        job = self._choice.choice(open_jobs[-6:])
        try:
            self.client.jobs.cancel(job.id)
            job.cancelled = True
        except UpweightError:
            return  # it has ended, or nobody answers: then it may or may not be cancelled
        finally:
            job.cancelled = job.cancelled or self._may_be_cancelled(job.id)

    def _may_be_cancelled(self, id: str) -> bool:
        try:
            return self.client.jobs.get(id).state in (JobState.CANCELLED, JobState.CANCELLING)
        except UpweightError:
            return True

    def unfinished(self) -> int:
        """How many are still to be done; as many as were sent while nobody answers."""
        try:
            return sum(
                len(list(self.client.jobs.list(state=state)))
                for state in (JobState.QUEUED, JobState.RUNNING, JobState.CANCELLING)
            )
        except UpweightError:
            return len(self.sent)

    def records(self, ids: Iterable[str]) -> dict[str, JobRecord | None]:
        """Some jobs that were accepted, None for one that is missing."""
        found: dict[str, JobRecord | None] = {}
        for id in ids:
            try:
                found[id] = self.client.jobs.get(id)
            except UpweightError as error:
                if error.status != 404:
                    raise
                found[id] = None
        return found

    def answer(self, id: str) -> Answer:
        """Digests of what is stored; the manifest says when and by whom, so it differs."""
        files = self._http.get(f"/v1/jobs/{id}/files").json()["files"]
        return {
            each["path"]: each["digest"]
            for each in files
            if not each["path"].endswith("manifest.json")
        }
