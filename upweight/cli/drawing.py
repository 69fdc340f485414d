"""What a picture is of, as it is typed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from upweight.cli.slices import chosen


def drawable(text: str | None, result: Any, kind: str, axis: int) -> Any:
    """Positions along an axis; of perturbations a single one."""
    if text is None:
        return None
    shape = result.shape
    if axis >= len(shape):
        raise typer.BadParameter("self-influences have no test rows", param_hint="--test")
    positions = list(chosen(text, shape[axis]))
    if kind == "heatmap" and len(shape) > 2 and len(positions) == 1:
        return positions[0]
    return positions


def known_wrong(text: str | None) -> list[int] | None:
    """Numbers with commas between them, or a file of them."""
    if text is None:
        return None
    path = Path(text)
    if path.suffix == ".npy":
        import numpy as np

        rows = np.load(path, allow_pickle=False)
        if rows.ndim != 1 or rows.dtype.kind not in "iu":
            raise typer.BadParameter(f"{path} must hold row numbers", param_hint="--flipped")
        return [int(row) for row in rows]
    words = path.read_text(encoding="utf-8") if path.is_file() else text
    try:
        return [int(word) for word in words.replace(",", " ").split()]
    except ValueError:
        message = f"{text!r} is no file, and no row numbers with commas between them"
        raise typer.BadParameter(message, param_hint="--flipped") from None
