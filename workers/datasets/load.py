"""A dataset's columns as tensors on the device, without holding a column twice."""

from __future__ import annotations

import torch
from torch import Tensor

from workers.datasets.reader import DatasetReader

_BLOCK_BYTES = 64 * 1024**2


def load_columns(reader: DatasetReader, device: torch.device) -> dict[str, Tensor]:
    """All rows of the inputs and targets, as they are stored. Raises Rejected when a shard has gone or changed."""
    columns = {
        name: torch.empty((reader.rows, *shape), dtype=reader.dtypes[name], device=device)
        for name, shape in reader.shapes.items()
    }
    for name, column in columns.items():
        step = max(1, _BLOCK_BYTES // max(1, column[:1].nbytes))
        for start in range(0, reader.rows, step):
            stop = min(start + step, reader.rows)
            column[start:stop] = reader.read(name, start, stop)
    return columns
