"""Tables for people: drawn by rich on a terminal, in plain columns, uncut and uncoloured, everywhere else."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TextIO

STYLES = {
    "ready": "green", "succeeded": "green", "ok": "green",
    "rejected": "red", "failed": "red", "fail": "red",
    "checking": "yellow", "queued": "yellow", "running": "cyan", "cancelling": "yellow",
    "warn": "yellow", "cancelled": "dim", "skip": "dim",
}  # fmt: skip
ID = "ID"  # the head of ids, which are copied: a terminal breaks them last
ID_LENGTH = 30
GAP = 3  # characters from one drawn column to the next


def show(
    heads: Sequence[str],
    rows: Sequence[Sequence[str]],
    out: TextIO | None = None,
    spare: Sequence[str] = (),
) -> None:
    """One table. `spare`: heads that a terminal too narrow for all leaves out, the first one first."""
    out = out or sys.stdout
    if out.isatty():
        _drawn(heads, rows, out, spare)
        return
    for line in plain([heads, *rows] if heads else rows):
        print(line, file=out)


def plain(rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns side by side, two spaces apart; the last one as long as it likes."""
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))] if rows else []
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def _drawn(
    heads: Sequence[str], rows: Sequence[Sequence[str]], out: TextIO, spare: Sequence[str]
) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.cells import cell_len
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(file=out)
    table = Table(box=SIMPLE_HEAD if heads else None, show_header=bool(heads), pad_edge=False)
    named = heads or [""] * len(rows[0] if rows else ())
    widths = [max(cell_len(row[at]) for row in [named, *rows]) for at in range(len(named))]
    kept = list(range(len(named)))
    left_out = []
    for name in (each for each in spare if each in named):
        if sum(widths[at] + GAP for at in kept) <= console.width:
            break
        kept = [at for at in kept if named[at] != name]
        left_out.append(name)
    for at in kept:
        whole = named[at] == ID and widths[at] <= ID_LENGTH
        table.add_column(named[at], overflow="fold", no_wrap=whole)
    for row in rows:
        table.add_row(*(Text(row[at], style=STYLES.get(row[at], "")) for at in kept))
    console.print(table)
    if left_out:
        console.print(f"In a wider terminal, or with --json: {', '.join(left_out)}", style="dim")
