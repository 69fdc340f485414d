"""`upweight doctor`: what is wrong with a set-up, seen from a client or from the machine that it runs on."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from upweight.cli.exits import Exit
from upweight.cli.keys import HERE
from upweight.cli.shell import Shell

if TYPE_CHECKING:
    from upweight.diagnosis import Finding


def doctor(
    shell: Shell,
    data_dir: Annotated[
        Path,
        typer.Option(help="Data folder of the service that runs here, where no address is set."),
    ] = HERE,
) -> None:
    """Look for what is wrong: from outside where there is a URL, else Redis, storage, workers, settings here."""
    found = list(_outside(shell) if shell.url or find_spec("fastapi") is None else _here(data_dir))
    shell.list(found, (), lambda each: (each.state, each.name, each.detail), "")
    if any(each.state == "fail" for each in found):
        raise typer.Exit(Exit.FAILED)


def _outside(shell: Shell) -> Iterator[Finding]:
    from upweight.cli.examination import examined

    yield from examined(shell)


def _here(data_dir: Path) -> Iterator[Finding]:
    """What the service itself looks at; this package starts it by name and never imports it."""
    from upweight.diagnosis import Finding, fail

    command = [sys.executable, "-m", "service.doctor", str(data_dir)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    for line in done.stdout.splitlines():
        yield Finding.model_validate_json(line)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no words"])[-1]
        yield fail("doctor", f"the examination broke off: {last}")
