"""A dataset's columns as tensors on the device, shard by shard, without holding a column twice."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from service.storage.objects import Objects
from upweight.schema import DatasetRecord
from workers.datasets.shards import open_shard

_BLOCK_ROWS_BYTES = 64 * 1024**2


def load_columns(
    record: DatasetRecord, objects: Objects, namespace: str, scratch: Path, device: torch.device
) -> dict[str, Tensor]:
    """All rows of the inputs and targets, as they are stored. Raises Rejected when a shard has gone or changed."""
    total = sum(record.shard_rows)
    columns = {
        spec.name: torch.empty(
            (total, *(int(length or 0) for length in spec.shape)),
            dtype=_torch_dtype(spec.dtype),
            device=device,
        )
        for spec in record.columns
    }
    before = 0
    for number, (digest, rows) in enumerate(
        zip(record.blobs or [], record.shard_rows, strict=True)
    ):
        with open_shard(
            objects, namespace, digest, record.format, scratch, f"/blobs/{number}"
        ) as shard:
            for name, column in columns.items():
                step = max(1, _BLOCK_ROWS_BYTES // max(1, column[:1].nbytes))
                for start in range(0, rows, step):
                    stop = min(start + step, rows)
                    block = np.array(
                        shard.read(name, start, stop),
                        dtype=_native(shard.columns[name].dtype),
                        order="C",
                    )
                    column[before + start : before + stop] = torch.from_numpy(block)
        before += rows
    return columns


def _native(dtype: np.dtype[np.generic]) -> np.dtype[np.generic]:
    return _WIDER.get(dtype.newbyteorder("="), dtype.newbyteorder("="))


# torch computes with few unsigned types; what it lacks is widened without loss where it can be.
_WIDER: dict[np.dtype[np.generic], np.dtype[np.generic]] = {
    np.dtype("uint16"): np.dtype("int32"),
    np.dtype("uint32"): np.dtype("int64"),
    np.dtype("uint64"): np.dtype("int64"),
}


def _torch_dtype(name: str) -> torch.dtype:
    return torch.from_numpy(np.empty(0, _native(np.dtype(name)))).dtype
