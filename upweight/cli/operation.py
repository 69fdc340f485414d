"""Commands of whoever runs the service: serve, worker, reindex, retention, doctor."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from upweight.cli.exits import Exit
from upweight.cli.keys import HERE, DataDir
from upweight.cli.module import become, require
from upweight.cli.shell import Shell


def serve(
    host: Annotated[
        str, typer.Option(envvar="UPWEIGHT_HOST", help="Address to listen on.")
    ] = "127.0.0.1",
    port: Annotated[
        int,
        typer.Option(envvar="UPWEIGHT_PORT", help="Port; 0 takes a free one.", min=0, max=65535),
    ] = 8765,
    workers: Annotated[int, typer.Option(help="How many worker processes.", min=1)] = 1,
    data_dir: Annotated[
        Path, typer.Option(help="Folder for everything that is kept; made when missing.")
    ] = Path("upweight-data"),
    log: Annotated[
        str,
        typer.Option(
            envvar="UPWEIGHT_LOG",
            help="`json`: all lines of all processes; `text`: in words, what matters; `auto`: words on a terminal.",
        ),
    ] = "auto",
) -> None:
    """Start Redis, the front end and workers here, until Ctrl-C.

    REDIS_URL takes the place of the embedded Redis, UPWEIGHT_STORAGE that of the folder of objects.
    """
    require("workers")
    arguments = ["--host", host, "--port", str(port), "--workers", str(workers), "--log", log]
    become("service.local", [*arguments, "--data-dir", str(data_dir)])


def worker(
    queues: Annotated[
        str, typer.Option(help="Queues to take jobs from, by priority, with commas between them.")
    ] = "high,default,low",
    device: Annotated[
        str, typer.Option(envvar="UPWEIGHT_DEVICE", help="`auto`, `cpu`, `cuda:0`, …")
    ] = "auto",
    workers: Annotated[
        int,
        typer.Option(
            help="How many, as processes of their own. A GPU takes one, or UPWEIGHT_WORKERS_PER_DEVICE.",
            min=1,
        ),
    ] = 1,
    threads: Annotated[
        int | None,
        typer.Option(
            envvar="UPWEIGHT_THREADS",
            help="CPU threads of each; an even share of the cores when left out.",
            min=1,
        ),
    ] = None,
) -> None:
    """Start workers for the Redis (UPWEIGHT_REDIS_URL) and the storage (UPWEIGHT_STORAGE) that are set."""
    arguments = ["--queues", queues, "--device", device]
    if threads is not None:
        arguments += ["--threads", str(threads)]
    if workers == 1:
        become("workers", arguments)
    require("workers")
    become("service.local.workers", ["--workers", str(workers), *arguments])


def reindex(
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what is missing and change nothing.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
    data_dir: DataDir = HERE,
) -> None:
    """Rebuild what Redis has lost from the object storage; what was running is queued again.

    It adds what is missing and changes nothing else: it may run while the service does, and run again.
    """
    flags = [*(["--dry-run"] if dry_run else []), *(["--json"] if as_json else [])]
    become("service.local.reindex", ["--data-dir", str(data_dir), *flags])


def retention(
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Name what would go and delete nothing.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="For programs: an object a line.")
    ] = False,
    data_dir: DataDir = HERE,
) -> None:
    """Delete results that have expired, and objects that belong to nothing.

    UPWEIGHT_RETENTION_DAYS and UPWEIGHT_RETENTION_BYTES say what expires. Workers do the same by themselves, slowly.
    """
    flags = [*(["--dry-run"] if dry_run else []), *(["--json"] if as_json else [])]
    become("service.local.retention", ["--data-dir", str(data_dir), *flags])


if TYPE_CHECKING:
    from upweight.schema.finding import Finding


def doctor(
    shell: Shell,
    data_dir: Annotated[
        Path,
        typer.Option(help="Data folder of the service that runs here, where no address is set."),
    ] = HERE,
) -> None:
    """Look for what is wrong: with --url or UPWEIGHT_URL from outside, without on this machine itself.

    On the service's own machine it looks at Redis, storage, workers and settings, from the data folder.
    """
    found = list(_outside(shell) if shell.url or find_spec("fastapi") is None else _here(data_dir))
    shell.list(found, (), lambda each: (each.state, each.name, each.detail), "")
    if any(each.state == "fail" for each in found):
        raise typer.Exit(Exit.FAILED)


def _outside(shell: Shell) -> Iterator[Finding]:
    from upweight.cli.examination import examined

    yield from examined(shell)


def _here(data_dir: Path) -> Iterator[Finding]:
    """What the service itself looks at; this package starts it by name and never imports it."""
    from upweight.schema.finding import Finding, fail

    command = [sys.executable, "-m", "service.doctor", str(data_dir)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    for line in done.stdout.splitlines():
        yield Finding.model_validate_json(line)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no words"])[-1]
        yield fail("doctor", f"the examination broke off: {last}")
