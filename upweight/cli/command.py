"""All nouns of the command on one page."""

from __future__ import annotations

from typing import Annotated

import typer

from upweight import __version__
from upweight.cli.keys import keys
from upweight.cli.reindex import reindex
from upweight.cli.retention import retention
from upweight.cli.serve import serve
from upweight.cli.worker import worker

command = typer.Typer(
    name="upweight",
    help="Influence functions as a service.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
command.command()(serve)
command.command()(worker)
command.command()(reindex)
command.command()(retention)
command.add_typer(keys, name="keys")


def show_version(wanted: bool) -> None:
    """Print the version and end."""
    if wanted:
        typer.echo(f"upweight {__version__}")
        raise typer.Exit


@command.callback()
def options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=show_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """Influence functions as a service."""
