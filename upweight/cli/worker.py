"""`upweight worker`: one worker, here, for a service that is anywhere."""

from __future__ import annotations

from typing import Annotated

import typer

from upweight.cli.module import become


def worker(
    queues: Annotated[
        str, typer.Option(help="Queues to take jobs from, by priority, with commas between them.")
    ] = "high,default,low",
    device: Annotated[
        str, typer.Option(envvar="UPWEIGHT_DEVICE", help="`auto`, `cpu`, `cuda:0`, …")
    ] = "auto",
) -> None:
    """Start a worker for the Redis (UPWEIGHT_REDIS_URL) and the storage (UPWEIGHT_STORAGE) that are set."""
    become("workers", ["--queues", queues, "--device", device])
