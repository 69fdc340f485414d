"""The command `upweight`: a file a noun.

The SDK alone has no command: what it would start is not installed then.
"""

from __future__ import annotations

import sys

from upweight import __version__


def main() -> None:
    """The entry point."""
    try:
        from upweight.cli.command import command
    except ModuleNotFoundError as missing:
        if missing.name != "typer":
            raise
        sys.exit(
            f"upweight {__version__}: only the SDK is installed; "
            "the command comes with `pip install 'upweight[service]'`."
        )
    command()
