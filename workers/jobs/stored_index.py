"""What an index has stored, read again: the numbers of its rows, and the eigenvectors that they are along."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from service.storage.chunks import Chunks
from service.storage.cuts import Cut
from service.storage.layout import ResultPaths
from service.storage.objects import Objects
from service.storage.row_blocks import RowBlocks
from service.storage.tensors import tensor_bytes
from upweight.errors import NotStored
from upweight.schema import IndexJob
from workers.engine import Embedding, RandomEmbedding, SpectralEmbedding, Strengths, restored
from workers.engine.curvature.structured.blocks import Spectral
from workers.fits.store import as_array, find_tensors, stored_tensors

FACTORS = "factors"
READ_BYTES = 32 * 1024**2


@dataclass(frozen=True)
class StoredIndex:
    """The index of one job."""

    objects: Objects
    paths: ResultPaths
    matrix: Chunks  # (n, width) float16 or int8; each row times its factor

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
        found = restored(stored_tensors(self.objects, self.paths.index_fit, device))
        assert isinstance(found, Spectral)
        return found

    def strengths(self, form: Spectral, dimension: int) -> Strengths:
        """Which numbers it keeps, of its curvature with its λ."""
        found = _stored(self.objects, self.paths)
        return Strengths.by_layer(form, dimension) if found is None else found

    def random_embedding(self, device: torch.device) -> RandomEmbedding:
        """What its numbers are a random projection by."""
        found = _stored_random(self.objects, self.paths, device)
        if found is None:
            raise NotStored(f"what index {self.paths.job_id} had stored has gone; start it again")
        return found

    def embedding(self, form: Spectral, request: IndexJob) -> Embedding:
        """What makes its numbers of gradients, of its curvature with its λ."""
        if request.projection.is_random:
            return self.random_embedding(form.blocks[0].values.device)
        return SpectralEmbedding.of(form, self.strengths(form, request.dimension))

    def numbers(self, rows: Sequence[int]) -> Tensor:
        """(k, width) of some rows, as they are stored."""
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


def first_strengths(
    objects: Objects, paths: ResultPaths, make: Callable[[], Strengths]
) -> Strengths:
    """Which numbers an index keeps: all who make blocks of it take what the first has found."""
    found = _stored(objects, paths)
    if found is None:
        made = make()
        arrays = {"places": as_array(made.places), "values": as_array(made.values)}
        objects.put_first(paths.index_strengths, tensor_bytes(arrays))
        found = _stored(objects, paths)
        assert found is not None
    return found


def first_random_embedding(
    objects: Objects, paths: ResultPaths, make: Callable[[], RandomEmbedding], device: torch.device
) -> RandomEmbedding:
    """The random projection of an index: all who make blocks of it take what the first has drawn and whitened."""
    found = _stored_random(objects, paths, device)
    if found is None:
        arrays = {name: as_array(each) for name, each in make().tensors().items()}
        objects.put_first(paths.index_projection, tensor_bytes(arrays))
        found = _stored_random(objects, paths, device)
        assert found is not None
    return found


def _stored_random(
    objects: Objects, paths: ResultPaths, device: torch.device
) -> RandomEmbedding | None:
    found = find_tensors(objects, paths.index_projection, device)
    return None if found is None else RandomEmbedding.from_tensors(found)


def _stored(objects: Objects, paths: ResultPaths) -> Strengths | None:
    """None where nobody has written them, or of an index from before there were any."""
    found = find_tensors(objects, paths.index_strengths, torch.device("cpu"))
    return None if found is None else Strengths(found["places"], found["values"])
