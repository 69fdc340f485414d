"""What an index has stored, read again: the numbers of its rows, and the eigenvectors that they are along."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from service.storage.chunks import Chunks
from service.storage.cuts import Cut
from service.storage.layout import ResultPaths
from service.storage.objects import Objects
from service.storage.row_blocks import RowBlocks
from service.storage.tensors import read_entry, read_header
from upweight.errors import NotStored
from workers.engine import restored
from workers.engine.curvature.structured.blocks import Spectral
from workers.fits.store import as_tensor

FACTORS = "factors"
READ_BYTES = 32 * 1024**2


@dataclass(frozen=True)
class StoredIndex:
    """The index of one job."""

    objects: Objects
    paths: ResultPaths
    matrix: Chunks  # (n, width) in half precision; each row times its factor

    @classmethod
    def open(cls, objects: Objects, namespace: str, id: str) -> StoredIndex:
        """Raises NotStored where it has gone."""
        paths = ResultPaths(namespace, id)
        try:
            return cls(objects, paths, Chunks.open(objects, paths.index_numbers))
        except FileNotFoundError:
            raise NotStored(f"what index {id} had stored has gone; start it again") from None

    def __len__(self) -> int:
        return self.matrix.shape[0]

    @property
    def width(self) -> int:
        """Numbers of a row."""
        return self.matrix.shape[1]

    def form(self, device: torch.device) -> Spectral:
        """The curvature by its eigenvectors, before any λ."""
        path = self.paths.index_fit
        tensors = {
            name: as_tensor(read_entry(self.objects, path, entry)).to(device)
            for name, entry in read_header(self.objects, path).items()
        }
        found = restored(tensors)
        assert isinstance(found, Spectral)
        return found

    def numbers(self, rows: Sequence[int]) -> Tensor:
        """(k, width) float16 of some rows."""
        blocks = list(self.matrix.blocks(rows, range(self.width), READ_BYTES))
        return torch.from_numpy(np.concatenate(blocks))

    def factors(self, rows: Sequence[int]) -> Tensor:
        """(k,) float32."""
        cut = Cut(len(self), self.matrix.chunk[0])
        kept = RowBlocks(self.objects, self.paths.index_factors, cut, FACTORS)
        return torch.from_numpy(np.concatenate(list(kept.read(rows, READ_BYTES))))

    def read(self, rows: Sequence[int]) -> Tensor:
        """(k, width) float32 of some rows, with their factors."""
        return self.numbers(rows).float() * self.factors(rows)[:, None]
