"""Vectors that a job is given: right-hand sides, first guesses and factors, of a blob or an earlier job."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from service.storage.keys import is_id
from service.storage.layout import blob_path
from service.storage.objects import Objects
from service.storage.row_blocks import RowBlocks
from service.storage.stored_vectors import StoredVectors, only_tensor, vector_column
from service.storage.tensors import BadTensors, TensorEntry, read_entry, read_header
from upweight.errors import InvalidRequest, NotStored, UpweightError
from upweight.schema import (
    AttributionJob,
    DatasetRecord,
    GradientsJob,
    IhvpJob,
    JobRecord,
    Judgement,
    parse_rows,
)
from workers.datasets.columns import Columns
from workers.engine import Problem
from workers.process.context import Context

RowsOf = Callable[[slice], Tensor]  # some rows of a stored (k, p), or of factors (L, k, p)
READ_BYTES = 64 * 1024**2


def right_hand_sides(
    context: Context, namespace: str, request: AttributionJob, problem: Problem
) -> RowsOf | None:
    """Those of a job that gives them. Raises InvalidRequest, NotFound, NotStored."""
    if not isinstance(request, IhvpJob):
        return None
    digest = request.rhs
    if is_id("job", digest):
        _, some = _rows_of_job(context, namespace, digest, "/rhs", problem)
        return lambda rows: some(rows)[0]
    entry = _entry(context.objects, namespace, digest, "rhs", "/rhs", problem)
    return _rows_of(context.objects, namespace, digest, entry, problem)


def first_guess(
    context: Context, namespace: str, digest: str, name: str, count: int, problem: Problem
) -> RowsOf:
    """One for each of `count` right-hand sides, where that is not 0, from a tensor of a blob. Raises InvalidRequest."""
    pointer = f"/inversion/{name}"
    entry = _entry(context.objects, namespace, digest, name, pointer, problem)
    if count not in (0, entry.shape[0]):
        raise InvalidRequest.field(
            pointer,
            f"{name!r} has {entry.shape[0]} rows; it needs one for each of the {count} "
            "right-hand sides",
            digest,
        )
    return _rows_of(context.objects, namespace, digest, entry, problem)


def earlier_factors(
    context: Context, namespace: str, record: JobRecord | None, problem: Problem
) -> RowsOf | None:
    """Those of an earlier job, if there is one. Raises InvalidRequest, NotFound, NotStored."""
    if record is None:
        return None
    return _rows_of_job(context, namespace, record.id, "/factors", problem)[1]


def factors_solved(record: JobRecord | None) -> Judgement | None:
    """The verdict of the job whose factors are taken."""
    if record is not None and isinstance(record.request, GradientsJob):
        return Judgement(
            level="good",
            text=f"Nothing was solved: the gradients of job {record.id} are taken as they are, with the identity "
            "in the place of the inverse.",
        )
    if record is None or record.verdict is None:
        return None
    judgement = record.verdict.solved
    return Judgement(
        level=judgement.level, text=f"Of the factors' job, {record.id}: {judgement.text}"
    )


def vectors_of_job(context: Context, namespace: str, id: str, pointer: str) -> StoredVectors:
    """The factors, gradients or products of an earlier job. Raises NotFound, NotStored."""
    record = JobRecord.model_validate(context.records.get("job", namespace, id))
    found = StoredVectors.of(namespace, id, record.result)
    if found is None:
        raise NotStored.field(pointer, f"job {id} stored no factors, gradients or products", id)
    return found


def _rows_of_job(
    context: Context, namespace: str, id: str, pointer: str, problem: Problem
) -> tuple[int, RowsOf]:
    """How many vectors of the problem's parameters a job stored, and some of them (L, k, p).

    Raises InvalidRequest, NotFound, NotStored.
    """
    found = vectors_of_job(context, namespace, id, pointer)
    if found.size != problem.size:
        words = f"the vectors of job {id} have {found.size} numbers each, and the model selects {problem.size}"
        raise InvalidRequest.field(pointer, words, id)
    blocks = found.blocks(context.objects)
    return found.cut.total, lambda rows: stored_rows(blocks, rows, problem)


def given_vectors(
    context: Context, namespace: str, source: str, pointer: str, problem: Problem
) -> tuple[int, RowsOf]:
    """How many vectors there are, and some of them (k, p): of a job that stores some, of a dataset, or of a blob.

    Raises InvalidRequest, NotFound, NotStored.
    """
    objects = context.objects
    if is_id("job", source):
        total, some = _rows_of_job(context, namespace, source, pointer, problem)
        return total, lambda rows: some(rows)[0]
    if is_id("dataset", source):
        dataset = DatasetRecord.model_validate(context.records.get("dataset", namespace, source))
        return dataset.rows or 0, _rows_of_dataset(context, namespace, dataset, pointer, problem)
    try:
        entry = only_tensor(objects, namespace, source)
    except (BadTensors, FileNotFoundError) as error:
        raise _bad_tensor(pointer, "vectors", source, error) from None
    return entry.shape[0], _rows_of(objects, namespace, source, entry, problem)


def _rows_of_dataset(
    context: Context, namespace: str, dataset: DatasetRecord, pointer: str, problem: Problem
) -> RowsOf:
    """A vector a row of its one input. Raises InvalidRequest."""
    columns = Columns((vector_column(dataset, problem.size, pointer),), (), {})
    found = context.session.rows(namespace, dataset, columns, parse_rows(None, dataset.rows or 0))

    def some(rows: slice) -> Tensor:
        batch = found.take(torch.arange(rows.start, rows.stop))
        return batch.inputs[0].reshape(len(batch), -1).to(problem.device, problem.dtype)

    return some


def _entry(
    objects: Objects, namespace: str, digest: str, name: str, pointer: str, problem: Problem
) -> TensorEntry:
    """Of a tensor (k, p) of a blob."""
    path = blob_path(namespace, digest)
    try:
        entry = read_header(objects, path)[name]
    except (BadTensors, KeyError, FileNotFoundError) as error:
        raise _bad_tensor(pointer, name, digest, error) from None
    size = problem.size
    if len(entry.shape) != 2 or entry.shape[1] != size:
        raise InvalidRequest.field(
            pointer,
            f"{name!r} has shape {list(entry.shape)}; it must be (right-hand sides, {size})",
            digest,
        )
    return entry


def _rows_of(
    objects: Objects, namespace: str, digest: str, entry: TensorEntry, problem: Problem
) -> RowsOf:
    """Some rows of a tensor of a blob, on the device."""

    def some(rows: slice) -> Tensor:
        array = read_entry(objects, blob_path(namespace, digest), entry, rows.start, rows.stop)
        return torch.tensor(array).to(problem.device, problem.dtype)

    return some


def stored_rows(kept: Sequence[RowBlocks], rows: slice, problem: Problem) -> Tensor:
    """Some rows (L, k, p) on the device, of each λ's tensor, read block by block."""
    shape = (len(kept), rows.stop - rows.start, problem.size)
    found = torch.empty(shape, dtype=problem.dtype, device=problem.device)
    for layer, of_one in zip(found, kept, strict=True):
        position = 0
        for block in of_one.read(range(rows.start, rows.stop), READ_BYTES):
            layer[position : position + len(block)] = torch.tensor(block)
            position += len(block)
    return found


def _bad_tensor(pointer: str, name: str, digest: str, error: Exception) -> UpweightError:
    if isinstance(error, FileNotFoundError):
        return InvalidRequest.field(pointer, "there is no such blob; upload it first", digest)
    if isinstance(error, KeyError):
        return InvalidRequest.field(pointer, f"the blob has no tensor {name!r}", digest)
    return InvalidRequest.field(pointer, f"the blob is not a safetensors file: {error}", digest)
