"""Always other models, of many tenants: `python -m tests.operation.churn --minutes 30 [--out samples.jsonl]`.

Each tenant registers models of 0.1 to 8 MB, sends jobs of several kinds with them, trains some anew and holds some
results against a bank of retrained models, makes and asks indexes, reads some results, cancels some jobs, and deletes
what it no longer needs, so that what is stored stays about the same. Meanwhile memory and handles of front end, worker
and Redis are sampled, and the tables of the queue: none may grow with what has passed through.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import sys
import tempfile
import time
import warnings
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import redis
import torch
from torch import nn

from service.auth import Keys, Role
from service.local.background import Running, running
from tests.faults.watched import files_below
from upweight import Client, JobCancelled, UntrustedResult
from upweight.errors import UpweightError
from upweight.schema import JobRecord, JobState

MIB = 1024**2
FEATURES, CLASSES, ROWS = 256, 4, 40
LARGE = 8 * MIB // 4  # parameters of the largest models
NAMES = ("front", "worker-1", "redis")
SETTINGS = {"UPWEIGHT_CACHE_BYTES": str(40 * MIB), "UPWEIGHT_THREADS": "1"}
KEPT_JOBS, KEPT_MODELS, KEPT_BANKS = 2, 3, 1  # of a tenant; no job of a model that goes is left
SMALL = 500  # hidden units up to which a model has other kinds of jobs, too
TRAINED = 1_200  # and up to which it is trained anew
RECIPE = {"optimizer": "sgd", "lr": 0.01, "epochs": 2, "batch_size": 16, "start": "warm"}
SAMPLE_SECONDS = 15.0
IDLE_SECONDS = 60.0


@dataclass
class Sample:
    """What there was at one moment; MiB of its own for each process, and its handles."""

    seconds: float
    models: int
    jobs: int
    memory: dict[str, float]
    handles: dict[str, int]
    redis_mib: float
    tables: dict[str, int]  # keys of Redis, by the first two words of their names
    stored_mib: float  # all objects


@dataclass
class Tenant:
    """One namespace with its own data."""

    name: str
    client: Client
    models: deque[str] = field(default_factory=deque)
    jobs: deque[str] = field(default_factory=deque)


class Churn:
    """The tenants of one service, one after the other."""

    def __init__(self, service: Running, tenants: Sequence[Tenant], seed: int = 0) -> None:
        self.service, self.tenants = service, tenants
        self.models = self.jobs = 0
        self.ended: Counter[str] = Counter()
        self.samples: list[Sample] = []
        self._choice = random.Random(seed)
        self._began = time.monotonic()
        self._redis = redis.Redis.from_url(service.redis_url)
        rows = np.random.default_rng(seed)
        for tenant in tenants:
            x = rows.normal(size=(ROWS, FEATURES)).astype("f4")
            tenant.client.datasets.register("rows", x=x, y=rows.integers(0, CLASSES, ROWS))

    def turn(self, parameters: int) -> None:
        """One tenant's next model and its jobs; what is too many of either goes."""
        tenant = self.tenants[self.models % len(self.tenants)]
        name = f"model-{self.models}"
        torch.manual_seed(self.models)
        width = max(1, parameters // (FEATURES + CLASSES + 1))
        network = nn.Sequential(
            nn.Linear(FEATURES, width), nn.Tanh(), nn.Linear(width, CLASSES)
        ).eval()
        tenant.client.models.register(
            name, network, example=torch.zeros(2, FEATURES), loss="cross_entropy", recipe=RECIPE
        )
        self.models += 1
        tenant.models.append(name)
        sent = [tenant.client.jobs.create(each).id for each in self._requests(name, width)]
        if self._choice.random() < 0.25:
            with suppress(UpweightError):  # it has ended
                tenant.client.jobs.cancel(self._choice.choice(sent))
        for id in sent:
            self._ended(tenant, id)
        sent += self._trained(tenant, name, sent[0]) if width < TRAINED else []
        self.jobs += len(sent)
        tenant.jobs.extend(sent)
        while len(tenant.jobs) > KEPT_JOBS:
            tenant.client.jobs.delete(tenant.jobs.popleft())
        while len(tenant.models) > KEPT_MODELS:
            tenant.client.models.delete(tenant.models.popleft())
        banks = sorted(tenant.client.banks.list(), key=lambda bank: bank.created_at)
        for bank in banks[:-KEPT_BANKS]:
            tenant.client.banks.delete(bank)

    def _ended(self, tenant: Tenant, id: str) -> JobRecord:
        """The job when it is over, counted; two rows of its matrix read."""
        with suppress(UpweightError, JobCancelled):  # its end is in the record
            tenant.client.jobs.wait(id, progress=False, timeout=600)
        record = tenant.client.jobs.get(id)
        self.ended[f"{record.request.kind} {record.state}"] += 1
        if record.result is not None and "matrix" in record.result.stored:
            tenant.client.jobs.result(id).influences[:2].sum()
        if record.request.kind == "index" and record.state is JobState.SUCCEEDED:
            rows = np.random.default_rng(self.jobs).normal(size=(2, FEATURES)).astype("f4")
            tenant.client.indexes.get(id).query(x=rows, y=[0, 1], k=3, candidates=10)
            self.ended["query of an index"] += 1
        return record

    def _trained(self, tenant: Tenant, model: str, judged: str) -> list[str]:
        """The model trained anew without some rows, and its influences held against a bank: their jobs."""
        rows = {"model": model, "train": {"dataset": "rows"}}
        sent = []
        if self._choice.random() < 0.5:
            sent.append(tenant.client.jobs.create({"kind": "retrain", "drop": "0:4", **rows}).id)
            made = self._ended(tenant, sent[-1]).model
            assert made is not None
            tenant.models.append(made.id)
        if tenant.client.jobs.get(judged).state is JobState.SUCCEEDED:
            asked = {"kind": "quality", "results": [judged], "subsets": 4, "repeats": 1, **rows}
            sent.append(tenant.client.jobs.create(asked).id)
            self._ended(tenant, sent[-1])
        return sent

    def _requests(self, model: str, width: int) -> Iterator[dict[str, Any]]:
        rows = {"dataset": "rows"}
        common = {"model": model, "train": rows, "hessian_regularization": 10.0}
        cg = {"method": "cg", "maxiter": 3}
        yield {"kind": "influences", "test": {**rows, "rows": "0:3"}, "inversion": cg, **common}
        kind = self._choice.randrange(4) if width < SMALL else None
        if kind == 0:
            yield {"kind": "factors", "test": {**rows, "rows": "0:2"}, "inversion": cg, **common}
        elif kind == 1:
            arnoldi = {"method": "arnoldi", "rank_estimate": 4}
            few = {**common, "train": {**rows, "rows": "0:40"}}
            yield {"kind": "self_influences", "inversion": arnoldi, **few}
        elif kind == 2:
            lissa = {"method": "lissa", "maxiter": 3}
            top = {"matrix": False, "top": 5}
            test = {**rows, "rows": "3:5"}
            yield {"kind": "influences", "test": test, "inversion": lissa, "keep": top, **common}
        elif kind == 3:
            yield {"kind": "index", "dimension": 16, **common}
        if width < 10:
            direct = {"method": "direct"}
            yield {"kind": "influences", "test": rows, "inversion": direct, **common}

    def _idle(self) -> bool:
        """That no task is at hand: the queue keeps its record for a moment after the job's own says its end."""
        return not any(self._redis.scan_iter(match="rq:execution*", count=1000))

    def sample(self) -> Sample:
        """What there is when the worker is idle, kept with those before."""
        self.service.wait(self._idle, IDLE_SECONDS, "a task did not end")
        pids = {name: self.service.pid(name) for name in NAMES}
        tables = Counter(
            ":".join(key.decode().split(":")[:2]) for key in self._redis.scan_iter(count=1000)
        )
        info: Any = self._redis.info("memory")
        found = Sample(
            round(time.monotonic() - self._began, 1),
            self.models,
            self.jobs,
            {name: round(own_memory(pid) / MIB, 1) for name, pid in pids.items()},
            {name: len(os.listdir(f"/proc/{pid}/fd")) for name, pid in pids.items()},
            round(info["used_memory"] / MIB, 2),
            dict(sorted(tables.items())),
            round(stored_bytes(Path(self.service.storage)) / MIB, 1),
        )
        self.samples.append(found)
        return found


def stored_bytes(folder: Path) -> int:
    """Of all files below; what goes meanwhile is left out."""
    total = 0
    for path in files_below(folder):
        with suppress(FileNotFoundError):
            total += path.stat().st_size
    return total


def own_memory(pid: int) -> int:
    """Bytes that are the process's own, no files."""
    status = Path(f"/proc/{pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024


def tenants_of(service: Running, count: int, stack: ExitStack) -> list[Tenant]:
    """So many namespaces, each with a key and a client."""
    with redis.Redis.from_url(service.redis_url) as connection:
        keys = [
            Keys(connection).create(f"tenant-{i}", Role.WRITE, "churn")[1] for i in range(count)
        ]
    return [
        Tenant(f"tenant-{i}", stack.enter_context(Client(service.url, key, timeout=600)))
        for i, key in enumerate(keys)
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints a line a sample, and what the last third has beside the second."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--models", type=int, default=300, help="spread over the time")
    parser.add_argument("--tenants", type=int, default=10)
    parser.add_argument("--out", type=Path, help="a line of JSON a sample")
    options = parser.parse_args(arguments)
    choice = random.Random(1)
    warnings.simplefilter("ignore", UntrustedResult)  # the networks are untrained
    with (
        tempfile.TemporaryDirectory() as folder,
        running(Path(folder), environment=SETTINGS) as service,
        ExitStack() as stack,
    ):
        churn = Churn(service, tenants_of(service, options.tenants, stack))
        began, sampled = time.monotonic(), 0.0
        end = began + 60 * options.minutes
        while time.monotonic() < end and churn.models < options.models:
            churn.turn(LARGE if churn.models % 3 == 0 else choice.randrange(20_000, LARGE // 4))
            if time.monotonic() - sampled >= SAMPLE_SECONDS:
                sampled = time.monotonic()
                _tell(churn.sample(), options.out)
            due = began + 60 * options.minutes * churn.models / options.models
            time.sleep(max(0.0, due - time.monotonic()))
        _tell(churn.sample(), options.out)
        _say(f"{churn.models} models, {churn.jobs} jobs: {dict(churn.ended)}")
        _compare(churn.samples)


def _tell(sample: Sample, out: Path | None) -> None:
    tables = sum(sample.tables.values())
    _say(
        f"{sample.seconds:>7.0f} s {sample.models:>4} models {sample.jobs:>4} jobs "
        f"MiB {sample.memory} handles {sample.handles} Redis {sample.redis_mib} MiB, {tables} keys "
        f"stored {sample.stored_mib} MiB"
    )
    if out is not None:
        with out.open("a") as file:
            file.write(json.dumps(asdict(sample)) + "\n")


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _compare(samples: Sequence[Sample]) -> None:
    third = max(1, len(samples) // 3)
    before, after = samples[third : 2 * third], samples[-third:]
    for name in NAMES:
        _say(
            f"{name}: {_middle(before, lambda s, n=name: s.memory[n]):.0f} MiB and "
            f"{_middle(before, lambda s, n=name: s.handles[n]):.0f} handles in the second third, "
            f"{_middle(after, lambda s, n=name: s.memory[n]):.0f} and "
            f"{_middle(after, lambda s, n=name: s.handles[n]):.0f} in the last"
        )


def _middle(samples: Sequence[Sample], of: Any) -> float:
    return statistics.median(of(each) for each in samples)


if __name__ == "__main__":
    main()
