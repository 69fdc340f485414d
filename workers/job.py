"""One job from its record to its stored result: gather the material, compute, store, describe."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from service.results.layout import ResultPaths, blob_path
from service.storage.keys import Document
from service.storage.tensors import BadTensors, read_tensor
from upweight.errors import InvalidRequest, NotStored, UpweightError
from upweight.schema import (
    DatasetRecord,
    IhvpJob,
    InfluencesJob,
    ModelRecord,
    Selection,
    SelfInfluencesJob,
    parse_rows,
)
from workers.computation import AnyJob, ColumnBlock, Material, compute
from workers.context import Context
from workers.engine import Problem, TensorRows
from workers.fits import Fits
from workers.labels import refuse_labels_out_of_range
from workers.models import described_layout
from workers.predictions import store_predictions
from workers.results import Ranking, ResultWriter
from workers.watch import Watch

# tf32 and bf16 are those of gradient products alone.
_DTYPES = {
    "float32": torch.float32,
    "float64": torch.float64,
    "tf32": torch.float32,
    "bf16": torch.float32,
}


def run(
    context: Context, namespace: str, job: Document, request: AnyJob, watch: Watch
) -> dict[str, Any]:
    """Computes and stores; answers the fields that a succeeded record has. Raises UpweightError, EngineError."""
    began = time.monotonic()
    watch.progress("load", 0, 1, "models")
    material = _Gathering(context, namespace, job, request).material()
    writer = ResultWriter(context.objects, ResultPaths(namespace, job["id"]))
    sink = StoringSink(writer, request, material)
    outcome = compute(request, material, context.settings.memory_bytes, watch.progress, sink)
    _store_predictions(context, writer, request, material, watch)
    watch.progress("finish", 0, 1, "manifests")
    problem = material.problem
    described = {
        "job_id": job["id"],
        "request": job["request"],
        "device": str(context.device),
        "seed": request.seed,
    }
    size = writer.commit(described_layout(problem), described)
    return {
        "info": outcome.summary,
        "cost": {
            "hessian_passes": outcome.passes,
            "engine_seconds": outcome.seconds,
            "seconds": time.monotonic() - began,
            "peak_memory_bytes": outcome.peak_memory_bytes,
        },
        "result": {
            "influence_shape": sink.influence_shape,
            "factor_shape": sink.factor_shape,
            "dtype": str(problem.dtype).removeprefix("torch."),
            "stored": writer.stored,
            "size_bytes": size,
        },
    }


def _store_predictions(
    context: Context, writer: ResultWriter, request: AnyJob, material: Material, watch: Watch
) -> None:
    train = isinstance(request, InfluencesJob | SelfInfluencesJob)
    sides = {"test": material.test, "train": material.train if train else None}
    for side, rows in sides.items():
        if rows is not None:
            store_predictions(
                context.objects,
                writer.paths,
                side,
                material.problem,
                rows,
                batch_size=request.batch_size,
                budget_bytes=context.settings.memory_bytes,
                progress=watch.progress,
            )
            writer.stored.append(f"{side}_predictions")


class _Gathering:
    """Brings what a job names onto the device."""

    def __init__(self, context: Context, namespace: str, job: Document, request: AnyJob) -> None:
        self._context, self._namespace, self._job, self._request = context, namespace, job, request

    def material(self) -> Material:
        request = self._request
        model = ModelRecord.model_validate(self._record("model", "model_id"))
        problem = self._context.session.problem(self._namespace, model, _DTYPES[request.precision])
        train_set = self._dataset("train_id")
        # By default H is over the whole dataset that `train` selects from.
        hessian_on = request.hessian_on or Selection(dataset=request.train.dataset)
        return Material(
            problem=problem,
            hessian_rows=self._rows(
                problem,
                self._dataset("hessian_id"),
                hessian_on,
                "/hessian_on" if request.hessian_on else "/train",
            ),
            train=self._rows(problem, train_set, request.train, "/train"),
            test=self._test(problem),
            rhs=self._tensor(request.rhs, "rhs", problem, "/rhs")
            if isinstance(request, IhvpJob)
            else None,
            factors=self._earlier_factors(problem),
            guess=lambda digest, name: self._tensor(digest, name, problem, f"/inversion/{name}"),
            fits=self._fits(model.id, hessian_on),
            perturb_input=_input_position(train_set, request),
        )

    def _fits(self, model_id: str, hessian_on: Selection) -> Fits:
        request, rows = self._request, hessian_on.rows or "all"
        dtype = str(_DTYPES[request.precision])
        key = (
            "fit",
            self._namespace,
            model_id,
            dtype,
            self._job["hessian_id"],
            rows,
            str(request.batch_size),
        )
        return Fits(self._context.session, key, request.reuse)

    def _record(self, kind: Any, field: str) -> Document:
        return self._context.records.get(kind, self._namespace, self._job[field])

    def _dataset(self, field: str) -> DatasetRecord:
        return DatasetRecord.model_validate(self._record("dataset", field))

    def _rows(
        self, problem: Problem, dataset: DatasetRecord, selection: Selection, pointer: str
    ) -> TensorRows:
        chosen = parse_rows(selection.rows, dataset.rows or 0)
        rows = self._context.session.rows(self._namespace, dataset, chosen)
        refuse_labels_out_of_range(problem, rows, f"{pointer}/dataset")
        return rows

    def _test(self, problem: Problem) -> TensorRows | None:
        test: Selection | None = getattr(self._request, "test", None)
        if test is None:
            return None
        return self._rows(problem, self._dataset("test_id"), test, "/test")

    def _tensor(self, digest: str, name: str, problem: Problem, pointer: str) -> Tensor:
        try:
            array = read_tensor(self._context.objects, blob_path(self._namespace, digest), name)
        except (BadTensors, KeyError, FileNotFoundError) as error:
            raise _bad_tensor(pointer, name, digest, error) from None
        if array.ndim != 2 or array.shape[1] != problem.size:
            raise InvalidRequest.field(
                pointer,
                f"{name!r} has shape {list(array.shape)}; it must be (right-hand sides, {problem.size})",
                digest,
            )
        return torch.from_numpy(array.copy()).to(problem.device, problem.dtype)

    def _earlier_factors(self, problem: Problem) -> Tensor | None:
        earlier = getattr(self._request, "factors", None)
        if earlier is None:
            return None
        try:
            array = read_tensor(
                self._context.objects, ResultPaths(self._namespace, earlier).factors, "factors"
            )
        except FileNotFoundError:
            raise NotStored.field("/factors", f"job {earlier} stored no factors", earlier) from None
        return torch.from_numpy(array.copy()).to(problem.device, problem.dtype)


def _bad_tensor(pointer: str, name: str, digest: str, error: Exception) -> UpweightError:
    if isinstance(error, FileNotFoundError):
        return InvalidRequest.field(pointer, "there is no such blob; upload it first", digest)
    if isinstance(error, KeyError):
        return InvalidRequest.field(pointer, f"the blob has no tensor {name!r}", digest)
    return InvalidRequest.field(pointer, f"the blob is not a safetensors file: {error}", digest)


def _input_position(train: DatasetRecord, request: AnyJob) -> int:
    """Where the input to perturb stands: the one named, else the first floating-point one."""
    wish = getattr(request, "perturb_input", None)
    if wish is not None:
        if wish not in train.inputs:
            raise InvalidRequest.field(
                "/perturb_input", f"the inputs are {', '.join(train.inputs)}", wish
            )
        return train.inputs.index(wish)
    dtypes = {column.name: column.dtype for column in train.columns}
    floating = [
        number for number, name in enumerate(train.inputs) if dtypes[name].startswith("float")
    ]
    return floating[0] if floating else 0


class StoringSink:
    """Stores what the engine yields, as the job's `keep` says."""

    def __init__(self, writer: ResultWriter, request: AnyJob, material: Material) -> None:
        self._writer, self._request, self._material = writer, request, material
        self.influence_shape: list[int] | None = None
        self.factor_shape: list[int] | None = None

    def info(self, arrays: dict[str, Tensor]) -> None:
        """The inversion's arrays."""
        self._writer.tensors("info", self._writer.paths.info, arrays)

    def factors(self, factors: Tensor) -> None:
        """(m, p)."""
        self.factor_shape = list(factors.shape)
        self._writer.tensors("factors", self._writer.paths.factors, {"factors": factors})

    def self_influences(self, values: Tensor) -> None:
        """(n,)."""
        self.influence_shape = list(values.shape)
        self._writer.tensors(
            "self_influences", self._writer.paths.mean, {"self_influences": values}
        )

    def influences(self, blocks: Iterator[ColumnBlock], rows: int, columns: int) -> None:
        """Blocks of columns in order; matrix, ranking and mean are fed from the same pass."""
        assert isinstance(self._request, InfluencesJob)
        keep = self._request.keep
        ranking = Ranking(keep.top) if keep.top else None
        means: list[Tensor] = []
        matrix = None
        for columns_here, block in blocks:
            if self.influence_shape is None:
                self.influence_shape = [rows, columns, *block.shape[2:]]
                if keep.matrix:
                    matrix = self._writer.matrix(
                        self.influence_shape, str(block.dtype).removeprefix("torch.")
                    )
            if matrix is not None:
                matrix.write(block)
            if ranking is not None:
                ranking.add(columns_here.start, block)
            if keep.mean:
                means.append(block.mean(0, dtype=torch.float64).to(block.dtype))
        if matrix is not None:
            matrix.close()
        if ranking is not None:
            self._writer.tensors("top", self._writer.paths.top, ranking.tensors())
        if means:
            self._writer.tensors("mean", self._writer.paths.mean, {"mean": torch.cat(means)})
