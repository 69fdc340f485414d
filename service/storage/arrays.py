"""Matrices of results: Zarr 3 arrays over the objects, so that users can open them with a library they have.

A block is a whole chunk and has one writer. Chunks are not compressed (scores are noise to a compressor), and what
is not written yet reads as NaN. `chunks` reads them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from service.storage.objects import Objects

if TYPE_CHECKING:
    import zarr


def create_array(
    objects: Objects, path: str, shape: Sequence[int], chunks: Sequence[int], dtype: str
) -> zarr.Array[Any]:
    """A new array; one that is there already (an earlier attempt's) is replaced."""
    import zarr

    return zarr.create_array(
        store=_store(objects, path),
        shape=tuple(shape),
        chunks=tuple(chunks),
        dtype=dtype,
        compressors=None,
        fill_value=float("nan"),
        overwrite=True,
    )


def _store(objects: Objects, path: str) -> Any:
    from zarr.storage import ObjectStore

    return ObjectStore(objects.rooted_at(path))
