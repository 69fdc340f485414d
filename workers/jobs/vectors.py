"""An attempt at a job that stores vectors without an inversion: gradients of rows, products with a curvature.

Block by block: no more than one is in memory, and each is an object of its own. A later attempt, after a lost worker or
a failure, goes on from those that are there.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, TypeVar

import torch
from torch import Tensor

from service.lifecycle.states import LeaseLost
from service.storage.cuts import Cut
from service.storage.row_blocks import block_path
from service.storage.stored_vectors import GRADIENTS, PRODUCTS
from upweight.schema import (
    ColumnMatch,
    DatasetRecord,
    GradientsJob,
    HvpJob,
    ModelRecord,
    VectorsJob,
)
from workers import engine
from workers.engine import (
    Curvature,
    Over,
    Problem,
    Progress,
    Rows,
    make_curvature,
    make_measurement,
)
from workers.jobs.attempt import Attempt
from workers.jobs.blocks import Window, numbered_from, peak_memory
from workers.jobs.finish import curvature_summary
from workers.jobs.given import given_vectors
from workers.jobs.inputs import DTYPES
from workers.jobs.results import ResultWriter, versions
from workers.jobs.rows import MASK, RowsOfJob, checked_derivatives
from workers.programs.models import described_layout

OBJECT_BYTES = 32 * 1024**2  # of a block, as long as one vector fits
BUDGET_PART = 0.25  # of the budget, for a block that is being filled
RequestT = TypeVar("RequestT", bound=VectorsJob)


@dataclass(frozen=True)
class Loaded:
    """A problem and the rows of one dataset, in the order that the job's record says."""

    problem: Problem
    rows: Rows
    mask_input: int | None


@dataclass(frozen=True)
class VectorsAttempt(Attempt[RequestT]):
    """What both have in common."""

    def load(self) -> Loaded:
        """Raises UpweightError, and what the watch's progress raises."""
        context, namespace, job, request = self.context, self.namespace, self.job, self.request
        records, progress = context.records, self.watch.progress
        progress("load", 0, 1, "models")
        model = ModelRecord.model_validate(records.get("model", namespace, job["model_id"]))
        problem = context.session.problem(namespace, model, DTYPES[request.precision], progress)
        dataset = DatasetRecord.model_validate(records.get("dataset", namespace, job["train_id"]))
        matches = [ColumnMatch.model_validate(each) for each in job["matched"]]
        match = next(each for each in matches if each.dataset == dataset.id)
        size = request.batch_size if isinstance(request.batch_size, int) else None
        found = RowsOfJob(context, namespace, model, problem, size, progress)
        selection: Any = request.train  # type: ignore[attr-defined]
        rows = found.of(dataset, match, selection, "/train")
        mask = match.inputs.index(MASK) if MASK in match.inputs else None
        return Loaded(problem, rows, mask)

    def options(self, progress: Progress) -> dict[str, Any]:
        """Of the engine's passes over rows."""
        return {
            "batch_size": self.request.batch_size,
            "budget_bytes": self.context.settings.memory_bytes,
            "progress": progress,
        }

    def cut(self, count: int, vector_bytes: int) -> Cut:
        """So many vectors in blocks that are objects: as an earlier attempt has begun, or anew."""
        objects = self.context.objects
        if self.job["attempt"] > 1:
            begun = self._begun_with()
            if begun is not None:
                return Cut(count, begun)
            self.watch.confirm()
            objects.delete_prefix(self.paths.prefix)
        budget = int(BUDGET_PART * self.context.settings.memory_bytes)
        cut = Cut.evenly(count, max(1, min(OBJECT_BYTES, budget) // max(1, vector_bytes)))
        self.watch.confirm()
        document = {"rows": cut.step, "versions": versions()}
        if not objects.put_new(self.paths.plan, json.dumps(document, sort_keys=True).encode()):
            raise LeaseLost(self.job["id"])  # another attempt has begun
        return cut

    def _begun_with(self) -> int | None:
        """Vectors of a block of an earlier attempt, if its blocks are of use to this one."""
        try:
            document = json.loads(self.context.objects.get(self.paths.plan))
        except FileNotFoundError:
            return None
        return int(document["rows"]) if document["versions"] == versions() else None

    def store(self, name: str, cut: Cut, made: Callable[[slice], Tensor]) -> ResultWriter:
        """Each block once it is made, but those that are there; nothing is written that another may be writing."""
        writer = ResultWriter(self.context.objects, self.paths)
        folder: str = getattr(self.paths, name)
        there = {meta.path for meta in self.context.objects.walk(folder)}
        for number, block in enumerate(cut.blocks()):
            self.watch.progress(f"store {name}", block.start, cut.total, "vectors")
            if block_path(folder, number) in there:
                continue
            found = made(block)
            self.watch.confirm()
            writer.tensors(block_path(folder, number), {name: found.cpu()})
        return writer

    def outcome(
        self,
        name: str,
        writer: ResultWriter,
        cut: Cut,
        parameters: Sequence[dict[str, Any]],
        width: int,
        dtype: torch.dtype,
        info: dict[str, Any],
        cost: dict[str, Any],
    ) -> dict[str, Any]:
        """The fields of the job's success; the manifest is written last."""
        self.watch.confirm()
        described = {
            "job_id": self.job["id"],
            "request": self.job["request"],
            "device": str(self.context.device),
            "seed": self.request.seed,
            "stored": [name],
        }
        size = writer.commit(parameters, described)
        return {
            "info": {"precision": self.request.precision, **info},
            "result": {
                "factor_shape": [cut.total, width],
                "dtype": str(dtype).removeprefix("torch."),
                "stored": [name],
                "size_bytes": size,
                "layout": {"factor_rows": cut.step},
            },
            "cost": cost,
        }

    @contextmanager
    def measured(self, problem: Problem) -> Iterator[dict[str, Any]]:
        """What is done in this block of code; filled in at its end."""
        cost: dict[str, Any] = {}
        began = time.perf_counter()
        if problem.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(problem.device)
        yield cost
        cost["engine_seconds"] = time.perf_counter() - began
        cost["peak_memory_bytes"] = peak_memory(problem.device)


@dataclass(frozen=True)
class GradientsAttempt(VectorsAttempt[GradientsJob]):
    """∇m(z) of each row."""

    def run(self) -> dict[str, Any]:
        """Raises what `Attempt.run` does; NotFinite names the row."""
        began, request = time.monotonic(), self.request
        loaded = self.load()
        problem, rows = loaded.problem, loaded.rows
        checked = checked_derivatives(
            self.context, (self.namespace, self.job["model_id"]), problem, rows, twice=False
        )
        asked = request.measurement
        which = asked.class_ if asked.name == "logit" else "label"
        of_rows = problem
        if asked.name != "loss":
            measured = make_measurement(problem.plain.loss, asked.name, which)
            rows = problem.unweighted(rows)
            of_rows = problem.with_loss(measured)
        places, parameters = _chosen(problem, request.parameters)
        width = problem.size if places is None else len(places)
        cut = self.cut(len(rows), width * problem.dtype.itemsize)

        def made(block: slice) -> Tensor:
            shape = (block.stop - block.start, width)
            found = torch.empty(shape, dtype=problem.dtype)
            window = Window(rows, block.start, block.stop)
            options = self.options(self._progress_from(block.start, len(rows)))
            with numbered_from(block.start):
                for here, each in engine.row_gradients(of_rows, window, **options):
                    found[here] = (each if places is None else each[:, places]).cpu()
            return found

        with self.measured(problem) as cost:
            writer = self.store(GRADIENTS, cut, made)
        cost |= {"gradient_passes": 1.0, "seconds": time.monotonic() - began}
        info = {"measurement": asked.name, "derivative_check": checked.as_info()}
        return self.outcome(GRADIENTS, writer, cut, parameters, width, problem.dtype, info, cost)

    def _progress_from(self, start: int, count: int) -> Progress:
        """A block's rows among all."""

        def progress(stage: str, done: int, total: int, unit: str) -> None:
            self.watch.progress(stage, start + done, max(start + total, count), unit)

        return progress


@dataclass(frozen=True)
class ProductsAttempt(VectorsAttempt[HvpJob]):
    """(C + λI) v of each vector."""

    def run(self) -> dict[str, Any]:
        """Raises what `Attempt.run` does."""
        began, request = time.monotonic(), self.request
        loaded = self.load()
        problem = loaded.problem
        checked = checked_derivatives(
            self.context, (self.namespace, self.job["model_id"]), problem, loaded.rows,
            twice=request.curvature.differentiates_twice,
        )  # fmt: skip
        count, vectors = given_vectors(
            self.context, self.namespace, request.vectors, "/vectors", problem
        )
        cut = self.cut(count, problem.size * problem.dtype.itemsize)
        curvatures: list[Curvature] = []  # one, once a block is to be made

        def made(block: slice) -> Tensor:
            if not curvatures:
                curvatures.append(self._curvature(loaded))
            given = vectors(block)
            found = curvatures[0].matmat(given)
            return torch.add(found, given, alpha=request.hessian_regularization)

        with self.measured(problem) as cost:
            writer = self.store(PRODUCTS, cut, made)
        cost |= {
            "hessian_passes": float(sum(each.passes for each in curvatures)),
            "seconds": time.monotonic() - began,
        }
        info = curvature_summary(request) | {"derivative_check": checked.as_info()}
        parameters = described_layout(problem)
        return self.outcome(
            PRODUCTS, writer, cut, parameters, problem.size, problem.dtype, info, cost
        )

    def _curvature(self, loaded: Loaded) -> Curvature:
        """By its eigenvectors where these are known without its matrix."""
        request = self.request
        over = Over(
            loaded.problem, loaded.rows, seed=request.seed, whole=loaded.rows,
            mask_input=loaded.mask_input, **self.options(self.watch.progress),
        )  # fmt: skip
        found = make_curvature(over, request.curvature.kind, request.curvature.structure)
        if request.curvature.structure == "full":
            return found
        closed = found.closed_form()
        return found if closed is None else found.known_by(closed)


def _chosen(
    problem: Problem, globs: Sequence[str] | None
) -> tuple[Tensor | None, list[dict[str, Any]]]:
    """The places in θ of the parameters that any glob matches, and what they are; None: all places."""
    layout = described_layout(problem)
    if globs is None:
        return None, layout
    places: list[Tensor] = []
    kept: list[dict[str, Any]] = []
    offset = 0
    for each, described in zip(problem.layout, layout, strict=True):
        if any(fnmatchcase(each.name, glob) for glob in globs):
            places.append(torch.arange(each.offset, each.offset + each.size))
            kept.append({**described, "offset": offset})
            offset += each.size
    return torch.cat(places).to(problem.device), kept
