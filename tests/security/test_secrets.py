"""Recognisable secrets go through a busy service; then everything that it wrote and answered is searched for them."""

from __future__ import annotations

import base64
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import pytest
import redis
import torch
from torch import nn

from service.auth import Keys, Role
from service.local.background import Running, running
from tests.patience import PATIENCE
from tests.s3_server import S3Server
from tests.webhooks.receiver import Receiver, answering, receiver
from upweight import Client, UpweightError

HOOK_SECRET = "whsec_" + base64.b64encode(b"webhook-secret-hunter2-hunter2!!").decode()
S3_SECRET = "s3-secret-hunter2-hunter2-hunter2"
S3_KEY = "s3-key-hunter2"
PATHS = (
    "/healthz", "/readyz", "/metrics", "/openapi.json", "/docs", "/", "/nothing", "/v1/jobs", "/v1/models",
    "/v1/datasets", "/v1/webhooks/secret",
)  # fmt: skip
ENDS = ("", "/deliveries", "/info", "/files", "/top")


@dataclass
class Busy:
    """A service under way, all that it wrote, and what must not be in there."""

    service: Running
    key: str
    log: list[str]
    answers: list[str] = field(default_factory=list)

    @property
    def secrets(self) -> dict[str, str]:
        """By what they are."""
        password = self.service.redis_url.partition(":")[2].partition(":")[2].partition("@")[0]
        assert len(password) > 20
        return {
            "key": self.key.rpartition("_")[2],
            "webhook secret": HOOK_SECRET.removeprefix("whsec_"),
            "decoded webhook secret": "webhook-secret-hunter2",
            "S3 secret": S3_SECRET,
            "Redis password": password,
            "password in a URL": "geheim",
        }


@pytest.fixture(scope="module")
def hook() -> Iterator[Receiver]:
    with receiver() as server:
        server.behave = [answering(500), answering(204)]
        yield server


@pytest.fixture(scope="module")
def busy(tmp_path_factory: pytest.TempPathFactory, s3: S3Server, hook: Receiver) -> Iterator[Busy]:
    environment = {
        **s3.environment(s3.bucket()),
        "AWS_ACCESS_KEY_ID": S3_KEY,
        "AWS_SECRET_ACCESS_KEY": S3_SECRET,
        "UPWEIGHT_WEBHOOK_SECRET": HOOK_SECRET,
        "UPWEIGHT_WEBHOOK_HTTP": "true",
        "UPWEIGHT_WEBHOOK_NETWORKS": "127.0.0.0/8",
        "UPWEIGHT_WEBHOOK_PAUSE_SECONDS": "0.2",
        "UPWEIGHT_LOG_LEVEL": "debug",
    }
    log: list[str] = []
    with running(
        tmp_path_factory.mktemp("secrets"), environment=environment, log=log.append
    ) as service:
        with redis.Redis.from_url(service.redis_url) as connection:
            key = Keys(connection).create("default", Role.WRITE, "busy")[1]
        made = Busy(service, key, log)
        work(made, hook)
        yield made


def work(busy: Busy, hook: Receiver) -> None:
    """Whatever a service does in a day: what goes well, what goes wrong, and what is broken on purpose."""
    x, y = torch.rand(40, 4), torch.arange(40) % 3
    with Client(busy.service.url, api_key=busy.key) as client:
        client.models.register("net", nn.Linear(4, 3), example=x[:2], loss="cross_entropy")
        client.datasets.register("rows", x=x, y=y)
        ways = {"hessian_regularization": 0.1, "inversion_method": "direct"}
        result = client.compute_influences("net", "rows", "rows", webhook={"url": hook.url}, **ways)
        busy.answers.append(result.job.model_dump_json())
        with pytest.raises(
            UpweightError
        ):  # a Hessian that is not positive definite, or no convergence
            client.compute_influences(
                "net", "rows", "rows", inversion_method="cg", maxiter=1, rtol=1e-12, timeout_s=0
            )
        hook.wait_for(2)
    with httpx2.Client(base_url=busy.service.url, timeout=PATIENCE, trust_env=False) as http:
        right = {"Authorization": f"Bearer {busy.key}"}
        wrong = {"Authorization": f"Bearer {busy.key[:-1]}x"}
        user = {"url": "https://user:geheim@example.com/"}
        for headers in (right, wrong, {}):
            for path in (*PATHS, *(f"/v1/jobs/{result.job.id}{end}" for end in ENDS)):
                busy.answers.append(http.get(path, headers=headers).text)
            body = {
                "model": "net",
                "train": {"dataset": "rows"},
                "webhook": user,
                "kind": "factors",
            }
            busy.answers.append(http.post("/v1/jobs", json=body, headers=headers).text)
        for name in ("worker-1", "front", "redis"):
            busy.service.restart(name)
        busy.answers.append(http.get("/readyz").text)


def test_no_secret_is_in_anything_that_was_written_or_answered(busy: Busy) -> None:
    everything = {"log": "\n".join(busy.log), "answers": "\n".join(busy.answers)}
    assert len(busy.log) > 100
    assert any('"webhook"' in line for line in busy.log)
    for where, text in everything.items():
        for what, secret in busy.secrets.items():
            assert secret not in text, f"the {what} is in the {where}"


def test_presigned_addresses_are_given_to_who_asks_and_logged_nowhere(busy: Busy) -> None:
    """Who has one needs no key."""
    assert any("X-Amz-Signature" in answer for answer in busy.answers)
    assert not any("X-Amz-Signature" in line for line in busy.log)


def test_no_secret_is_in_the_results_or_the_command_lines(busy: Busy, tmp_path: Path) -> None:
    """The stored objects, and what every user of the machine sees of our processes."""
    with redis.Redis.from_url(busy.service.redis_url) as connection:
        names = connection.keys("*")
        values = b"\n".join(name + (connection.dump(name) or b"") for name in names)  # type: ignore[union-attr,operator]
    for what in ("key", "S3 secret", "Redis password", "password in a URL"):
        assert busy.secrets[what].encode() not in values, f"the {what} is in Redis"
    for pid in busy.service.state().pids.values():
        line = Path(f"/proc/{pid}/cmdline").read_text()
        assert not any(secret in line for secret in busy.secrets.values())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("UPWEIGHT_WEBHOOK_SECRET", "hunter2"),
        ("UPWEIGHT_REDIS_URL", "redis://:hunter2@127.0.0.1:notaport/0"),
        ("UPWEIGHT_REDIS_URL", "http://:hunter2@127.0.0.1/0"),
        ("UPWEIGHT_REDIS_URL", "redis://:hunter2@127.0.0.1:1/0"),
        ("UPWEIGHT_STORAGE", "s3://user:hunter2@bucket/x"),
    ],
)
def test_a_setting_that_is_wrong_is_not_shown_when_it_is_a_secret(
    name: str, value: str, tmp_path: Path
) -> None:
    environment = {"PATH": "/usr/bin", "UPWEIGHT_STORAGE": str(tmp_path), name: value}
    done = subprocess.run(
        [sys.executable, "-m", "service.keys", "list"]
        if "REDIS" in name
        else [sys.executable, "-m", "service"],
        env=environment | {"UPWEIGHT_HOST": "0.0.0.0"},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode != 0
    assert done.stdout + done.stderr
    assert "hunter2" not in done.stdout + done.stderr
