"""Ids and metadata of rows as shards have them: no model sees these columns."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Value = bool | int | float | str


def plain(stored: Array) -> Array:
    """Texts in any of their forms as UTF-8, uint8 (rows, bytes), filled up with 0; all else as it is.

    npz has text as NumPy does, of one width; Parquet's comes as bytes of one width.
    """
    if stored.ndim != 1 or stored.dtype.kind not in "US":
        return stored
    texts = np.char.encode(stored, "utf-8") if stored.dtype.kind == "U" else stored
    width = max(1, texts.dtype.itemsize)
    return np.ascontiguousarray(texts.astype(f"S{width}")).view(np.uint8).reshape(len(texts), width)


def is_text(stored: Array) -> bool:
    """Whether `plain` ones are texts."""
    return stored.ndim == 2


def values_in(stored: Array) -> list[Any]:
    """Numbers (rows,), or texts, as Python has them."""
    stored = plain(stored)
    if not is_text(stored):
        return list(stored.tolist())
    texts = np.ascontiguousarray(stored).view(f"S{stored.shape[1]}").reshape(-1)
    return [text.decode() for text in texts.tolist()]


def ids_in(stored: Array) -> list[int | str]:
    """Ids of rows."""
    return values_in(stored)


def joined(pieces: list[Array]) -> Array:
    """Pieces of a column from several shards; texts get the width of the widest."""
    pieces = [plain(piece) for piece in pieces]
    widths = {piece.shape[1] for piece in pieces if is_text(piece) and piece.dtype == np.uint8}
    if len(widths) > 1:
        most = max(widths)
        pieces = [np.pad(piece, ((0, 0), (0, most - piece.shape[1]))) for piece in pieces]
    return np.concatenate(pieces)
