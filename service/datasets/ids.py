"""Ids of rows as shards have them."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def ids_in(stored: Array) -> list[int | str]:
    """Ids from how they are stored: numbers (rows,), or UTF-8 (rows, bytes) filled up with 0."""
    if stored.ndim == 1:
        return list(stored.tolist())
    texts = np.ascontiguousarray(stored).view(f"S{stored.shape[1]}").reshape(-1)
    return [text.decode() for text in texts.tolist()]
