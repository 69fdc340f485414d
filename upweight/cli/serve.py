"""`upweight serve`: the whole service on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from upweight.cli.module import become, require


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
) -> None:
    """Start Redis, the front end and workers here, until Ctrl-C.

    REDIS_URL takes the place of the embedded Redis, UPWEIGHT_STORAGE that of the folder of objects.
    """
    require("workers")
    arguments = ["--host", host, "--port", str(port), "--workers", str(workers)]
    become("service.local", [*arguments, "--data-dir", str(data_dir)])
