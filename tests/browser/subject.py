"""The demo's digits in the running service, and a job for each view, computed once for all tests of a run."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import httpx2
import numpy as np
import torch

from demo import digits as handwritten
from demo.digits import DAMPING, Digits
from demo.journey import Journey
from upweight import Client

STARVED = 4  # iterations, too few for some right-hand sides


@dataclass(frozen=True)
class Subject:
    """Digits, the network, and the ids of jobs by what they are about."""

    url: str
    digits: Digits
    network: torch.nn.Module
    jobs: Mapping[str, str]
    records: Mapping[str, str]

    def page(self, job: str, *parts: object) -> str:
        """The address of a job's view."""
        return "/".join([f"{self.url}/#/jobs/{self.jobs[job]}", *map(str, parts)])

    def get(self, job: str, part: str = "", **query: Any) -> Any:
        """The API's answer about a job."""
        path = f"/v1/jobs/{self.jobs[job]}{part}"
        return httpx2.get(self.url + path, params=query, trust_env=False).raise_for_status().json()

    @cached_property
    def predicted(self) -> np.ndarray[Any, Any]:
        """What the network makes of the training rows."""
        with torch.no_grad():
            return self.network(torch.from_numpy(self.digits.x_train)).argmax(1).numpy()

    def array(self, job: str, name: str) -> np.ndarray[Any, Any]:
        """An array of a job's info."""
        path = f"{self.url}/v1/jobs/{self.jobs[job]}/info"
        answer = httpx2.get(path, params={"array": name}, trust_env=False).raise_for_status()
        return np.asarray(np.load(io.BytesIO(answer.content), allow_pickle=False))


@cache
def trained() -> tuple[Digits, torch.nn.Module]:
    """The digits and the demo's network, once for all tests of a run."""
    digits = handwritten.load()
    return digits, handwritten.train(digits)


def computed(url: str) -> Subject:
    """Registers the digits and computes everything."""
    digits, network = trained()
    with Client(url) as client:
        journey = Journey(client, digits, network)
        names = (journey.model, journey.train, journey.test)

        def influences(rows: str | None, **values: Any) -> str:
            values = {"hessian_regularization": DAMPING, "test_rows": rows, **values}
            return client.compute_influences(*names, **values).id

        itself = client.self_influences(
            journey.model, journey.train, inversion_method="direct", hessian_regularization=DAMPING
        )
        jobs = {
            "direct": influences(
                None, inversion_method="direct", spectrum="all",
                keep={"matrix": True, "top": 10, "mean": True}
            ),
            "self": itself.id,
            "starved": influences(
                "0:60", inversion_method="cg", maxiter=STARVED, rtol=1e-6,
                hessian_regularization=0.02, reuse=False,
            ),
            "lissa": influences("0:12", inversion_method="lissa", scale="auto"),
            "arnoldi": influences("0:12", inversion_method="arnoldi", rank_estimate=30),
            "nystroem": influences("0:12", inversion_method="nystroem", rank=30),
            "index": client.indexes.create("why", *names[:2], dimension=256).wait().id,
            "perturbation": influences(
                "3:9", inversion_method="cg", rtol=1e-5, influence_type="perturbation"
            ),
        }  # fmt: skip
        records = {"model": journey.model.id, "train": journey.train.id, "test": journey.test.id}
    return Subject(url, digits, network, jobs, records)
