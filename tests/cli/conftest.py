"""The command in this process, and as a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from service.local.background import Running
from upweight.cli.command import command
from upweight.cli.exits import run

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


def process(*arguments: str, **options: Any) -> subprocess.Popen[str]:
    """The command as users start it."""
    environment = {name: value for name, value in os.environ.items() if name not in SETTINGS}
    return subprocess.Popen(
        [sys.executable, "-m", "upweight.cli", *arguments],
        env=environment | options.pop("environment", {}),
        stdout=options.pop("stdout", subprocess.PIPE),
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )
