"""`upweight webhooks`."""

from __future__ import annotations

from upweight.cli.shell import Shell
from upweight.cli.verb import group, verb

webhooks = group("Webhooks: by what they are signed. Needs a key of the role admin.")


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
