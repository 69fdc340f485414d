"""The command in this process, and as a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from service.local.background import Running
from upweight.cli.command import command
from upweight.cli.exits import Exit, run
from upweight.export import export_program

LAMBDA = ("--regularization", "1")
SETTINGS = ("UPWEIGHT_URL", "UPWEIGHT_API_KEY")


@dataclass(frozen=True)
class Ended:
    """How it ended, and what it wrote."""

    code: int
    out: str
    err: str

    @property
    def documents(self) -> list[Any]:
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def document(self) -> Any:
        (only,) = self.documents
        return only


Upweight = Callable[..., Ended]


@pytest.fixture
def upweight(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Upweight:
    """Runs the command here: no second interpreter, so that a hundred calls cost little."""
    for name in SETTINGS:
        monkeypatch.delenv(name, raising=False)

    def call(*arguments: str) -> Ended:
        capsys.readouterr()
        code = run(command, arguments)
        wrote = capsys.readouterr()
        return Ended(code, wrote.out, wrote.err)

    return call


@pytest.fixture
def online(upweight: Upweight, stack: Running, monkeypatch: pytest.MonkeyPatch) -> Upweight:
    """The same, with the service of all tests as its service."""
    monkeypatch.setenv("UPWEIGHT_URL", stack.url)
    return upweight


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    torch.manual_seed(0)
    x = torch.randn(30, 4)
    (folder / "net.pt2").write_bytes(export_program(nn.Linear(4, 2), x[:2]))
    np.save(folder / "x.npy", x.numpy())
    np.save(folder / "y.npy", (x[:, 0] > 0).long().numpy())
    return folder


@pytest.fixture
def registered(online: Upweight, files: Path) -> tuple[str, ...]:
    """The options that name a model and its data; registered once."""
    if online("models", "show", "cli-net").code == Exit.NOT_FOUND:
        made = online("models", "register", "cli-net", str(files / "net.pt2"), "--loss", "cross_entropy")  # fmt: skip
        assert made.code == 0, made.err
        arrays = [str(files / "x.npy"), str(files / "y.npy")]
        made = online("datasets", "register", "cli-rows", *arrays, "--label", "team=cli")
        assert made.code == 0, made.err
    return ("--model", "cli-net", "--train", "cli-rows", "--test", "cli-rows")


@pytest.fixture
def job(online: Upweight, registered: tuple[str, ...]) -> str:
    """A job that has succeeded; the same computation is found again by the service."""
    submitted = online(
        "jobs", "submit", *registered, *LAMBDA, "--test-rows", "5:12",
        "--keep", "matrix,mean,factors,top=3", "--label", "by=cli", "--wait", "--json",
    )  # fmt: skip
    assert submitted.code == 0, submitted.err
    return str(submitted.documents[-1]["id"])


def process(*arguments: str, **options: Any) -> subprocess.Popen[str]:
    """The command as users start it."""
    environment = {name: value for name, value in os.environ.items() if name not in SETTINGS}
    return subprocess.Popen(
        [sys.executable, "-m", "upweight.cli", *arguments],
        env=environment | options.pop("environment", {}),
        stdout=options.pop("stdout", subprocess.PIPE),
        stderr=subprocess.PIPE,
        text=True,
        # Whoever runs the tests in the background has it ignored, and children would, too.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        **options,
    )
