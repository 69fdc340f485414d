"""The entry point of the command `upweight`, and of `python -m upweight.cli`."""

from __future__ import annotations

import sys

from upweight import __version__


def main() -> None:
    """Run the command, or say what has to be installed for it. Ends the process."""
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


if __name__ == "__main__":
    main()
