"""schemathesis over the whole OpenAPI document, on the whole service: what it can think of, and one call after another.

No server error, no status and no media type that the document does not name, no answer that breaks its schema, and
nothing without the key.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis
import torch
from torch import nn

from service.auth import Keys, Role
from service.local.background import Running, running
from upweight import Client

SECONDS = 30
CONFIGURATION = Path(__file__).parent / "schemathesis.toml"


@dataclass(frozen=True)
class Asked:
    """The service, a key, and a job with a result."""

    service: Running
    key: str
    job: str


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asked]:
    """With what the document's examples name, so that they come to something."""
    limits = {"UPWEIGHT_JOB_SECONDS": "60", "UPWEIGHT_QUERY_SECONDS": "80"}
    with running(tmp_path_factory.mktemp("contract"), environment=limits) as service:
        with redis.Redis.from_url(service.redis_url) as connection:
            key = Keys(connection).create("default", Role.ADMIN, "schemathesis")[1]
        x, y = torch.rand(60, 16), torch.arange(60) % 10
        names = ("digits-mlp", "digits-train", "digits-test")
        with Client(service.url, api_key=key) as client:
            client.models.register(names[0], nn.Linear(16, 10), example=x[:2], loss="cross_entropy")
            for name in names[1:]:
                client.datasets.register(name, x=x, y=y)
            result = client.compute_influences(
                *names, test_rows="0:4", inversion_method="direct", hessian_regularization=0.1
            )
        yield Asked(service, key, result.job.id)


@pytest.mark.timeout(SECONDS + 520)
def test_no_request_gets_an_answer_that_the_document_does_not_promise(
    asked: Asked, tmp_path: Path
) -> None:
    configuration = tmp_path / "schemathesis.toml"
    configuration.write_text(CONFIGURATION.read_text().replace("JOB", asked.job))
    command = [
        str(Path(sys.executable).parent / "schemathesis"),
        "--config-file", str(configuration),
        "run", f"{asked.service.url}/openapi.json",
        "--max-time", str(SECONDS),
        "--header", f"Authorization: Bearer {asked.key}",
        "--no-color",
    ]  # fmt: skip
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=SECONDS + 500, cwd=tmp_path
    )
    shown = "\n".join(line[:300] for line in (done.stdout + done.stderr).splitlines()[-400:])
    assert done.returncode == 0, shown
    asked.service.wait_until_ready()
