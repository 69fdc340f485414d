"""`upweight keys` and `upweight webhooks`: who may use the service, and the secret that signs webhooks."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from upweight.cli.module import become
from upweight.cli.shell import Shell
from upweight.cli.verb import Command, examples, group, verb

keys = group(
    "Make, show and revoke keys. Without any key, the service needs none and is for this machine alone."
)

DataDir = Annotated[
    Path, typer.Option(help="Data folder of the service that runs here; REDIS_URL goes before it.")
]
HERE = Path("upweight-data")
webhooks = group("Webhooks: by what they are signed. Needs a key of the role admin.")


class Role(StrEnum):
    """What a key is good for."""

    READ = "read"  # look at everything of its namespace
    WRITE = "write"  # and register, run, cancel, delete
    ADMIN = "admin"  # and manage keys


@keys.command(
    cls=Command,
    epilog=examples("upweight keys create --name laptop --namespace vision --role write"),
)
def create(
    name: Annotated[str, typer.Option(help="What the key is for; shown in lists.")],
    namespace: Annotated[str, typer.Option(help="What it can see.")] = "default",
    role: Annotated[Role, typer.Option(help="What it may do.")] = Role.WRITE,
    data_dir: DataDir = HERE,
) -> None:
    """Make a key and print it, once: only its hash is kept."""
    arguments = ["--name", name, "--namespace", namespace, "--role", role]
    become("service.local.keys", ["--data-dir", str(data_dir), "create", *arguments])


@keys.command("list", cls=Command, epilog=examples("upweight keys list --json"))
def show(
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
    data_dir: DataDir = HERE,
) -> None:
    """Show what keys there are: ids, names, roles."""
    become(
        "service.local.keys",
        ["--data-dir", str(data_dir), "list", *(["--json"] if as_json else [])],
    )


@keys.command(cls=Command, epilog=examples("upweight keys revoke 3f1c2a9b7d04"))
def revoke(
    key: Annotated[str, typer.Argument(help="The key's id, as `list` shows it.")],
    data_dir: DataDir = HERE,
) -> None:
    """Take a key back; it stops working at once."""
    become("service.local.keys", ["--data-dir", str(data_dir), "revoke", key])


@verb(webhooks, "secret", "upweight webhooks secret > webhook-secret")
def secret(shell: Shell) -> None:
    """Print the secret by which this namespace's webhooks are signed."""
    _show(shell, shell.client.webhooks.secret())


@verb(webhooks, "rotate", "upweight webhooks rotate > webhook-secret")
def rotate(shell: Shell) -> None:
    """Make a new secret and print it; for a day the old one signs, too."""
    _show(shell, shell.client.webhooks.rotate_secret())


def _show(shell: Shell, value: str) -> None:
    if shell.as_json:
        shell.document({"secret": value})
    else:
        print(value)
