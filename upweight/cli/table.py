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


def show(heads: Sequence[str], rows: Sequence[Sequence[str]], out: TextIO | None = None) -> None:
    """One table."""
    out = out or sys.stdout
    if out.isatty():
        _drawn(heads, rows, out)
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


def _drawn(heads: Sequence[str], rows: Sequence[Sequence[str]], out: TextIO) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD if heads else None, show_header=bool(heads), pad_edge=False)
    for head in heads or [""] * len(rows[0] if rows else ()):
        table.add_column(head, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell, style=STYLES.get(cell, "")) for cell in row))
    Console(file=out).print(table)
