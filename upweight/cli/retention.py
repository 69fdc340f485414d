"""`upweight retention`: what has expired goes now."""

from __future__ import annotations

from typing import Annotated

import typer

from upweight.cli.keys import HERE, DataDir
from upweight.cli.module import become


def retention(
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Name what would go and delete nothing.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="For programs: an object a line.")
    ] = False,
    data_dir: DataDir = HERE,
) -> None:
    """Delete results that have expired, and objects that belong to nothing.

    UPWEIGHT_RETENTION_DAYS and UPWEIGHT_RETENTION_BYTES say what expires. Workers do the same by themselves, slowly.
    """
    flags = [*(["--dry-run"] if dry_run else []), *(["--json"] if as_json else [])]
    become("service.local.retention", ["--data-dir", str(data_dir), *flags])
