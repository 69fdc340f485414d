"""`upweight reindex`: Redis anew, from the object storage."""

from __future__ import annotations

from typing import Annotated

import typer

from upweight.cli.keys import HERE, DataDir
from upweight.cli.module import become


def reindex(
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what is missing and change nothing.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
    data_dir: DataDir = HERE,
) -> None:
    """Rebuild what Redis has lost from the object storage; what was running is queued again.

    It adds what is missing and changes nothing else: it may run while the service does, and run again.
    """
    flags = [*(["--dry-run"] if dry_run else []), *(["--json"] if as_json else [])]
    become("service.local.reindex", ["--data-dir", str(data_dir), *flags])
