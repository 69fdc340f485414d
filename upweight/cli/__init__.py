"""The command `upweight`: a file a noun.

The SDK alone has no command: what it is made of is not installed then.
"""

from __future__ import annotations

import sys

from upweight import __version__


def main() -> None:
    """The entry point."""
    try:
        from upweight.cli.command import command
    except ModuleNotFoundError as missing:
        if missing.name not in ("typer", "rich"):
            raise
        sys.exit(
            f"upweight {__version__}: only the SDK is installed; "
            "the command comes with `pip install 'upweight[cli]'`, and the service with 'upweight[service]'."
        )
    from upweight.cli.exits import run

    sys.exit(run(command, sys.argv[1:]))
