"""From one worker to the next: what is in the queue before it is let go of is done all the same."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from service.storage.layout import blob_path
from service.storage.queue import CHECK_DATASET
from tests.patience import PATIENCE
from upweight.schema import InfluencesJob, JobState
from workers.checks.tasks import CheckTasks
from workers.jobs.attempt import Attempt
from workers.jobs.tasks import JobTask
from workers.process.context import Context

NAMESPACE, ID, OTHER = "default", "job_01ARZ3NDEKTSV4RRFFQ69G5FAV", "the-other"
JOB = {
    "id": ID,
    "state": "queued",
    "attempt": 0,
    "request": {
        "kind": "influences",
        "model": "m",
        "train": {"dataset": "d"},
        "test": {"dataset": "d"},
        "inversion": {"method": "cg"},
        "priority": "default",
    },
    "model_id": "m",
    "labels": {},
    "created_at": "2026-01-01T00:00:00+00:00",
    "finished_at": None,
}


@dataclass(frozen=True)
class Done(Attempt[InfluencesJob]):
    """An attempt with nothing to do."""

    def run(self) -> dict[str, Any]:
        return {}


KINDS: Mapping[str, type[Attempt[Any]]] = {"influences": Done}


def state(context: Context) -> str:
    return str(context.records.get("job", NAMESPACE, ID)["state"])


def test_a_job_that_is_queued_again_before_it_is_let_go_of_waits_for_that(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when a user retries it in the moment in which it failed."""
    context.records.create("job", NAMESPACE, JOB)
    assert context.leases.take(ID, OTHER)
    take, refused = context.leases.take, threading.Event()

    def taking(id: str, holder: str) -> bool:
        taken = take(id, holder)
        if not taken:
            refused.set()
        return taken

    monkeypatch.setattr(context.leases, "take", taking)
    task = threading.Thread(target=JobTask(context, KINDS).run, args=(NAMESPACE, ID))
    task.start()
    assert refused.wait(PATIENCE)
    context.leases.release(ID, OTHER)
    task.join(PATIENCE)
    assert state(context) == JobState.SUCCEEDED
    assert not context.leases.held(ID)


def test_a_job_that_another_has_begun_is_left_to_it(context: Context) -> None:
    context.records.create("job", NAMESPACE, JOB)
    assert context.leases.take(ID, OTHER)
    assert context.lifecycle.begin(NAMESPACE, ID, OTHER, "cpu")
    JobTask(context, KINDS).run(NAMESPACE, ID)
    assert state(context) == JobState.RUNNING
    assert context.leases.renew(ID, OTHER)


def test_a_check_that_is_given_back_can_be_taken_at_once(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    id = "dst_01ARZ3NDEKTSV4RRFFQ69G5FAV"
    shard = save({"x": np.zeros((2, 3), "f4"), "y": np.zeros(2, "i8")})
    digest = f"sha256:{hashlib.sha256(shard).hexdigest()}"
    context.objects.put(blob_path(NAMESPACE, digest), shard)
    rows = {
        "id": id,
        "state": "checking",
        "name": "d",
        "version": 1,
        "format": "safetensors",
        "blobs": [digest],
        "digest": digest,
        "size_bytes": len(shard),
        "inputs": ["x"],
        "targets": ["y"],
        "labels": {},
        "created_at": "2026-01-01T00:00:00+00:00",
    }
    context.records.create("dataset", NAMESPACE, rows)
    context.stopping.set()
    enqueue, taken = context.queue.enqueue, []

    def enqueued(task: str, *arguments: str, **choices: Any) -> None:
        enqueue(task, *arguments, **choices)
        taken.append((task, context.leases.take(id, OTHER)))

    monkeypatch.setattr(context.queue, "enqueue", enqueued)
    CheckTasks(context).check_dataset(NAMESPACE, id)
    assert taken == [(CHECK_DATASET, True)]
