"""A bank that two workers fill together, one of which is killed: the bytes are those of one worker in calm."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from service.local.background import Running
from service.storage.layout import bank_folder
from tests.faults.grids import GridJobs
from tests.faults.slow_jobs import NAMESPACE
from tests.faults.watched import files_below
from upweight import Client
from upweight.schema import JobRecord, JobState

ROWS, SUBSETS, TOGETHER = 60, 12, 6
RECIPE = {"optimizer": "adam", "lr": 0.01, "batch_size": 10, "epochs": 20, "start": "warm"}


class Judged(GridJobs):
    """A small network, its influences, and quality jobs over them."""

    def __init__(self, service: Running, client: Client) -> None:
        self.service, self.client = service, client
        torch.manual_seed(2)
        network = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3))
        x = torch.randn(ROWS + 5, 5)
        y = (x[:, 0] > 0).long() + (x[:, 1] > 0)
        client.models.register(
            "bank-net", network, example=x[:2], loss="cross_entropy", recipe=RECIPE
        )
        client.datasets.register("bank-rows", x=x[:ROWS], y=y[:ROWS])
        client.datasets.register("bank-test", x=x[ROWS:], y=y[ROWS:])
        self.result = client.compute_influences(
            "bank-net",
            "bank-rows",
            "bank-test",
            hessian_regularization=1.0,
            curvature="gauss_newton",
        ).id

    def judge(self, *, spread: bool | None, **values: Any) -> JobRecord:
        """On two banks, of twelve subsets each; and one of models without some rows."""
        return self.client.jobs.create(
            {
                "kind": "quality", "model": "bank-net", "train": {"dataset": "bank-rows"},
                "results": [self.result], "subsets": SUBSETS, "baselines": False,
                "blocks": {"models": TOGETHER, "spread": spread}, **values,
            }
        )  # fmt: skip

    def report(self, job: JobRecord) -> Mapping[str, Any]:
        """Once it has succeeded, without the seconds."""
        done = self.ended(job)
        assert done.state is JobState.SUCCEEDED, done.problem
        return self.client.jobs.result(job.id).report()

    def weights(self) -> dict[str, str]:
        """The digests of all weights of all banks."""
        found = {}
        for bank in self.client.banks.list():
            folder = Path(self.service.storage) / bank_folder(NAMESPACE, bank.id)
            for path in files_below(folder):
                if path.suffix == ".safetensors":
                    found[f"{bank.id}/{path.name}"] = sha256(path.read_bytes()).hexdigest()
        return found

    def forget(self) -> None:
        """Deletes all banks."""
        for bank in self.client.banks.list():
            self.client.banks.delete(bank)


@pytest.fixture(scope="module")
def judged(fragile: Running) -> Iterator[Judged]:
    fragile.wait_until_ready()
    with Client(fragile.url) as client:
        yield Judged(fragile, client)
    fragile.wait_until_ready()


def test_two_workers_and_a_killed_one_leave_the_bytes_of_one_in_calm(judged: Judged) -> None:
    values: dict[str, Any] = {
        "measures": ["lds", "loo", "brittleness"], "left_out": 6, "queries": 3, "k": 4,
    }  # fmt: skip
    alone = judged.judge(spread=False, **values)
    expected, calm = judged.report(alone), judged.weights()
    assert len(calm) == 1 + 2 * SUBSETS + 6 + 3 + 3
    judged.forget()
    together = judged.judge(spread=True, **values)
    pid = judged.caught(together, "retrain")
    assert pid, "it ended before a worker could be killed"
    os.kill(pid, signal.SIGKILL)
    found = judged.report(together)
    assert judged.weights() == calm
    assert found == expected
    done = judged.computed(together)
    assert len(done) == 2 * SUBSETS // TOGETHER + 3, (
        "subsets; and 13 of one seed, of all rows or without some, at most 6 together"
    )
    assert sorted(done.values())[-2:] in ([1, 1], [1, 2]), "only the group in hand is trained twice"
    record = judged.client.jobs.get(together.id)
    assert record.cost is not None
    assert record.cost.engine_seconds > 0


def test_what_a_bank_has_is_found_by_digest_and_not_trained_again(judged: Judged) -> None:
    first = judged.judge(spread=True)
    judged.report(first)
    before = judged.weights()
    again = judged.judge(spread=True)
    judged.report(again)
    assert judged.computed(again) == {}
    more = judged.judge(spread=True, subsets=SUBSETS + 2)
    judged.report(more)
    assert list(judged.computed(more).values()) == [1, 1], "the two more, with each seed"
    after = judged.weights()
    assert {name: after[name] for name in before} == before
    assert len(after) == len(before) + 4


def test_a_cancelled_job_keeps_what_its_bank_has_and_a_retry_goes_on(judged: Judged) -> None:
    judged.forget()
    slow = {**RECIPE, "epochs": 400}
    job = judged.judge(spread=True, recipe=slow)
    judged.service.wait(lambda: len(judged.weights()) > 0, 120, "nothing was trained")
    judged.client.jobs.cancel(job)
    assert judged.ended(job).state is JobState.CANCELLED
    kept = judged.weights()
    assert kept
    assert judged.objects(job) == []
    judged.forget()
