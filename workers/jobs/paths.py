"""What a block's object holds, and where it lies. An object that is there is a block that is done."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from service.results.layout import ResultPaths
from service.storage.arrays import NewMatrix
from service.storage.objects import Objects
from service.storage.row_blocks import block_path
from service.storage.tensors import read_entry, read_header, read_note, tensor_bytes
from workers.jobs.plan import Plan, Stage
from workers.jobs.results import ResultWriter, as_array
from workers.jobs.work import Contracted, SelfInfluences, Solved, Tensors, Work

FACTORS = "factors"
MEAN_SUMS = "mean_sums"


@dataclass(frozen=True)
class Places:
    """The objects of one job's blocks. `fit` and `factors` are folders that jobs may share."""

    plan: Plan
    paths: ResultPaths
    fit: str
    factors: str
    keeps_matrix: bool
    is_self: bool

    def of(self, stage: Stage, number: int, work: Work) -> str:
        """The object whose existence means that a block is done."""
        match stage:
            case "sums":
                return block_path(self.sums, number)
            case "fit":
                return f"{self.fit}/{work.fit_name()}.safetensors"
            case "solve":
                return block_path(self.factors, number)
            case "contract" if self.is_self:
                return block_path(self.paths.self_influences, number)
            case "contract" if self.keeps_matrix:
                return self.chunk(number)
            case "contract":
                return self.part(number)
            case "predict":
                side, rows = self.plan.prediction(number)
                return self.paths.predictions_block(side, rows.start, rows.stop)
            case "finish":
                return self.paths.manifest

    def chunk(self, number: int) -> str:
        """Of the matrix."""
        row, column = self.plan.contraction(number)
        trailing = "/0" * len(self.plan.trailing)
        return f"{self.paths.influences}/c/{row}/{column}{trailing}"

    def part(self, number: int) -> str:
        """What `finish` merges of a contraction."""
        return block_path(self.paths.parts, number)

    @property
    def sums(self) -> str:
        """The parts of a Hessian, until it is fitted."""
        return f"{self.fit}/sums"

    def there(self, objects: Objects, stage: Stage, count: int, work: Work) -> list[int]:
        """The blocks of a stage whose objects are there."""
        first = self.of(stage, 0, work)
        if count == 1:
            return [0] if objects.head(first) is not None else []
        folder = {
            "sums": self.sums,
            "solve": self.factors,
            "predict": f"{self.paths.prefix}/predictions",
        }.get(stage, self.paths.prefix)
        present = {meta.path for meta in objects.walk(folder)}
        return [number for number in range(count) if self.of(stage, number, work) in present]


def new_matrix(work: Work, path: str) -> NewMatrix:
    """The job's matrix, a contraction a chunk."""
    plan = work.plan
    dtype = str(work.material.problem.dtype).removeprefix("torch.")
    return NewMatrix(path, plan.matrix_shape(), plan.chunk_shape(), dtype)


def write_solved(writer: ResultWriter, path: str, solved: Solved) -> str:
    """All that later stages need of a block of solutions; answers the digest."""
    return writer.tensors(path, {FACTORS: solved.x, **solved.of_rows}, _note(solved.summary))


def write_self_influences(writer: ResultWriter, path: str, block: SelfInfluences) -> str:
    """One block of training rows; answers the digest."""
    return writer.tensors(path, {"self_influences": block.values}, _note(block.summary))


def write_contracted(
    writer: ResultWriter, places: Places, matrix: NewMatrix, number: int, block: Contracted
) -> str:
    """What is merged first, the matrix's chunk last: with it the block is done. Answers the digest of the last."""
    digest = ""
    parts: Tensors = dict(block.top)
    if block.mean_sums is not None:
        parts[MEAN_SUMS] = block.mean_sums
    if parts:
        digest = writer.tensors(places.part(number), parts)
    if block.matrix is not None:
        digest = writer.chunk(matrix, *places.plan.contraction(number), block.matrix)
    return digest


def read_parts(objects: Objects, path: str, *, sums: bool) -> Tensors:
    """What `write_contracted` left to be merged: the sums, or all else."""
    return {
        name: _tensor(read_entry(objects, path, entry))
        for name, entry in read_header(objects, path).items()
        if (name == MEAN_SUMS) == sums
    }


def read_summary(objects: Objects, path: str) -> dict[str, Any]:
    """What a block's inversion said of itself."""
    summary: dict[str, Any] = json.loads(read_note(objects, path))
    return summary


def read_of_rows(objects: Objects, path: str) -> Tensors:
    """What was found out about each right-hand side of a block."""
    return {
        name: _tensor(read_entry(objects, path, entry))
        for name, entry in read_header(objects, path).items()
        if name != FACTORS
    }


@dataclass(frozen=True)
class StoredFits:
    """A shelf in the object storage (see `workers.fits.fits.Shelf`)."""

    objects: Objects
    folder: str
    device: torch.device

    def find(self, name: str) -> Tensors | None:
        """A fit's tensors on the device."""
        path = f"{self.folder}/{name}.safetensors"
        try:
            header = read_header(self.objects, path)
        except FileNotFoundError:
            return None
        return {
            key: _tensor(read_entry(self.objects, path, entry)).to(self.device)
            for key, entry in header.items()
        }

    def put(self, name: str, tensors: Mapping[str, Tensor]) -> bool:
        """Stores a fit unless there is one; False if that is another."""
        arrays = {key: as_array(value) for key, value in tensors.items()}
        return self.objects.put_new(f"{self.folder}/{name}.safetensors", tensor_bytes(arrays))

    def partial_sums(self, count: int) -> Iterator[Tensor]:
        """The parts of a Hessian, in their order."""
        for number in range(count):
            path = block_path(f"{self.folder}/sums", number)
            entry = read_header(self.objects, path)["sum"]
            yield _tensor(read_entry(self.objects, path, entry)).to(self.device)


def _note(summary: dict[str, Any]) -> str:
    return json.dumps(summary, sort_keys=True)


def _tensor(array: np.ndarray[Any, Any]) -> Tensor:
    # Into memory of torch's own, which is aligned: products of matrices round otherwise where they lie otherwise.
    return torch.tensor(array)
