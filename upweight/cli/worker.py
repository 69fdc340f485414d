"""`upweight worker`: workers, here, for a service that is anywhere."""

from __future__ import annotations

from typing import Annotated

import typer

from upweight.cli.module import become, require


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
