"""All nouns of the command on one page."""

from __future__ import annotations

from typing import Annotated

import typer

from upweight import __version__
from upweight.cli.blobs import blobs
from upweight.cli.datasets import datasets
from upweight.cli.indexes import indexes
from upweight.cli.jobs import jobs
from upweight.cli.keys import keys, webhooks
from upweight.cli.models import models
from upweight.cli.operation import doctor, reindex, retention, serve, worker
from upweight.cli.quality import evaluate, tune
from upweight.cli.results import results
from upweight.cli.retraining import banks, retrain
from upweight.cli.verb import Command, examples, group, line, verb

command = group("Influence functions as a service.")
command.command(
    cls=Command,
    short_help=line(serve),
    epilog=examples("upweight serve --workers 2 --data-dir ./upweight-data"),
)(serve)
command.command(
    cls=Command,
    short_help=line(worker),
    epilog=examples("upweight worker --device cuda:0 --queues high,default"),
)(worker)
command.command(
    cls=Command, short_help=line(reindex), epilog=examples("upweight reindex --dry-run")
)(reindex)
command.command(
    cls=Command, short_help=line(retention), epilog=examples("upweight retention --dry-run")
)(retention)
verb(
    command,
    "doctor",
    "upweight doctor --url https://upweight.example.org",
    address="A service to look at from outside. Without: this machine, from its data folder.",
)(doctor)
verb(
    command,
    "retrain",
    "upweight retrain digits-mlp digits-train --drop 3,17,204 --test digits-test --name digits-clean",
)(retrain)
verb(
    command,
    "evaluate",
    """
    upweight evaluate latest
    upweight evaluate 01M8JM 01M8JN --measure lds,loo --subsets 200 --plot quality.png
    upweight evaluate latest --measure mislabel --wrong 3,17,204
    """,
)(evaluate)
verb(
    command,
    "tune",
    """
    upweight tune digits-mlp digits-train digits-test
    upweight tune digits-mlp digits-train digits-test --method direct --method ekfac --damping 0.01,0.1
    """,
)(tune)
command.add_typer(models, name="models")
command.add_typer(datasets, name="datasets")
command.add_typer(jobs, name="jobs")
command.add_typer(results, name="results")
command.add_typer(indexes, name="indexes")
command.add_typer(banks, name="banks")
command.add_typer(blobs, name="blobs")
command.add_typer(webhooks, name="webhooks")
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
