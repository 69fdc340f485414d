"""`upweight keys`: who may use the service."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from upweight.cli.module import become

keys = typer.Typer(
    help="Make, show and revoke keys. Without any key, the service needs none and is for this machine alone.",
    no_args_is_help=True,
)

DataDir = Annotated[
    Path, typer.Option(help="Data folder of the service that runs here; REDIS_URL goes before it.")
]
HERE = Path("upweight-data")


class Role(StrEnum):
    """What a key is good for."""

    READ = "read"  # look at everything of its namespace
    WRITE = "write"  # and register, run, cancel, delete
    ADMIN = "admin"  # and manage keys


@keys.command()
def create(
    name: Annotated[str, typer.Option(help="What the key is for; shown in lists.")],
    namespace: Annotated[str, typer.Option(help="What it can see.")] = "default",
    role: Annotated[Role, typer.Option(help="What it may do.")] = Role.WRITE,
    data_dir: DataDir = HERE,
) -> None:
    """Make a key and print it, once: only its hash is kept."""
    arguments = ["--name", name, "--namespace", namespace, "--role", role]
    become("service.local.keys", ["--data-dir", str(data_dir), "create", *arguments])


@keys.command("list")
def show(
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
    data_dir: DataDir = HERE,
) -> None:
    """Show what keys there are: ids, names, roles."""
    become(
        "service.local.keys",
        ["--data-dir", str(data_dir), "list", *(["--json"] if as_json else [])],
    )


@keys.command()
def revoke(
    key: Annotated[str, typer.Argument(help="The key's id, as `list` shows it.")],
    data_dir: DataDir = HERE,
) -> None:
    """Take a key back; it stops working at once."""
    become("service.local.keys", ["--data-dir", str(data_dir), "revoke", key])
