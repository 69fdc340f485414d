"""One block of a job as a task: loaded, computed, stored once, counted; and what its end means for the job."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from pydantic import TypeAdapter
from torch import Tensor

from service.logs import log
from service.storage.keys import Document
from service.storage.objects import ObjectMeta
from service.storage.row_blocks import RowBlocks
from service.storage.shared import folder_of
from upweight.errors import InternalError
from workers.jobs.finish import Findings, Finish
from workers.jobs.inputs import Gathering, stored_rows
from workers.jobs.job import advance, described, places_of
from workers.jobs.paths import (
    FACTORS,
    MEAN_SUMS,
    Places,
    StoredFits,
    new_matrix,
    read_of_rows,
    read_parts,
    read_summary,
    write_contracted,
    write_self_influences,
    write_solved,
)
from workers.jobs.plan import Plan, Stage
from workers.jobs.results import ResultWriter
from workers.jobs.threads import computing_with
from workers.jobs.work import AnyJob, Cost, Material, RowsOf, Tensors, Work
from workers.process.context import Context
from workers.process.watch import Watch

_REQUEST: TypeAdapter[AnyJob] = TypeAdapter(AnyJob)
_FIRST_FACTORS = 64  # what low precision is judged by


@dataclass
class Equipment:
    """What all blocks of one job need, kept on the worker from block to block."""

    request: AnyJob
    plan: Plan
    material: Material
    places: Places
    factor_rows: tuple[int, Tensor] | None = None  # of one block of test rows


class Crew:
    """This worker as one of those that are at a job's blocks."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._equipped: tuple[tuple[str, int], Equipment] | None = None

    def forget(self) -> None:
        """Lets go of what is kept for the next block: after running out of memory."""
        self._equipped = None

    def run(self, namespace: str, job: Document, stage: Stage, number: int, watch: Watch) -> None:
        """Does a block unless it is done, or before its time; and what follows if it was the last of its stage."""
        context, id = self._context, job["id"]
        if not self._is_due(id, Plan.from_json(job["plan"]), stage, number):
            return
        equipment = self._equipment(namespace, job)
        with computing_with(equipment.plan.threads):
            if stage == "finish":
                LastBlock(context, namespace, job, equipment, watch).run()
                return
            digest, cost = Block(context, namespace, job, equipment, watch).done(stage, number)
        figures = (cost.passes, cost.seconds, cost.peak_memory_bytes)
        first, count = context.grids.join(id, stage, number, digest, figures)
        if first and count == equipment.plan.stages()[stage]:
            advance(context, namespace, job, equipment.plan, between=watch.checkpoint)

    def _is_due(self, id: str, plan: Plan, stage: Stage, number: int) -> bool:
        grids, stages = self._context.grids, plan.stages()
        before = list(stages)[: list(stages).index(stage)]
        ready = all(
            done >= stages[each]
            for each, done in zip(before, grids.counts(id, before), strict=True)
        )
        return ready and bool(grids.missing(id, stage, [number]))

    def _equipment(self, namespace: str, job: Document) -> Equipment:
        key = (job["id"], job["attempt"])
        if self._equipped is None or self._equipped[0] != key:
            self._equipped = None  # before the next is loaded
            self._equipped = key, self._new_equipment(namespace, job)
        return self._equipped[1]

    def _new_equipment(self, namespace: str, job: Document) -> Equipment:
        request, plan = _REQUEST.validate_python(job["request"]), Plan.from_json(job["plan"])
        gathering = Gathering(self._context, namespace, job, request)
        material = gathering.material(trusted=True)
        places = places_of(job, namespace, request, plan)
        material = replace(material, fits=gathering.fits(plan, places.fit))
        return Equipment(request, plan, material, places)


@dataclass(frozen=True)
class Block:
    """One block of a job at work."""

    context: Context
    namespace: str
    job: Document
    equipment: Equipment
    watch: Watch

    @cached_property
    def work(self) -> Work:
        """The job's steps, told about to this block's watch."""
        found = self.equipment
        return Work(found.request, found.material, found.plan, self.watch.progress)

    @cached_property
    def writer(self) -> ResultWriter:
        """For this block's objects."""
        return ResultWriter(self.context.objects, self.equipment.places.paths)

    def done(self, stage: Stage, number: int) -> tuple[str, Cost]:
        """The digest of the block's object, and what it cost; nothing of either for one that was there."""
        path = self.equipment.places.of(stage, number, self.work)
        if self.context.objects.head(path) is not None:
            return "", Cost()
        log("block-began", job=self.job["id"], block=f"{stage}-{number}")
        with self.work.measured() as cost:
            store = self._computed(stage, number, path)
        self.watch.confirm()
        return store(), cost

    def _computed(self, stage: Stage, number: int, path: str) -> Callable[[], str]:
        """Computes, and answers what stores it."""
        work, writer, places = self.work, self.writer, self.equipment.places
        match stage:
            case "sums":
                sums = {"sum": work.partial_hessian(number)}
                return lambda: writer.tensors(path, sums)
            case "fit":
                self._fit()
                return str
            case "solve":
                solved = work.solve(number)
                return lambda: write_solved(writer, path, solved)
            case "contract" if places.is_self:
                block = work.self_influences(number)
                return lambda: write_self_influences(writer, path, block)
            case "contract":
                met = work.contract(self._factor_rows(number), number)
                matrix = new_matrix(work, places.paths.influences)
                return lambda: write_contracted(writer, places, matrix, number, met)
            case _:
                return lambda: work.predict(number, writer.objects, places.paths)[path]

    def _fit(self) -> None:
        """Puts what it makes on the shelf by itself."""
        plan, places = self.equipment.plan, self.equipment.places
        sums = None
        if plan.hessian is not None:
            shelf = StoredFits(self.context.objects, places.fit, self.context.device)
            sums = shelf.partial_sums(plan.hessian.count)
        self.work.fit(sums)
        self.context.objects.delete_prefix(places.sums)

    def _factor_rows(self, number: int) -> Tensor:
        """Of the block of test rows that a contraction is about; kept, for the next is mostly about the same."""
        equipment, plan = self.equipment, self.equipment.plan
        test, _ = plan.contraction(number)
        if equipment.factor_rows is None or equipment.factor_rows[0] != test:
            equipment.factor_rows = None
            equipment.factor_rows = test, self.factors(plan.test.block(test))
        return equipment.factor_rows[1]

    @property
    def factors(self) -> RowsOf:
        """Rows of the factors, wherever they lie."""
        material, plan = self.equipment.material, self.equipment.plan
        if material.factors is not None:
            return material.factors
        kept = RowBlocks(self.context.objects, self.equipment.places.factors, plan.rhs, FACTORS)
        return lambda rows: stored_rows(kept, rows, material.problem)


class LastBlock(Block):
    """`finish`: the job's end."""

    def run(self) -> None:
        """Merges, commits, and moves the record; what was needed on the way goes."""
        context, places, id = self.context, self.equipment.places, self.job["id"]
        context.grids.linger(id)
        self.watch.progress("finish", 0, 1, "manifests")
        self._require_all()
        finish = Finish(
            self.equipment.request, self.equipment.plan, self.work, self.writer, places.factors
        )
        most = min(_FIRST_FACTORS, self.equipment.plan.rhs.total)
        outcome = finish.run(
            self,
            self._findings(),
            lambda: self.factors(slice(0, most)),
            self._kept_factors() if finish.keeps_factors else (),
            described(self.job, self.equipment.request, context),
        )
        self.watch.confirm()
        kept = [name for name in self.job["shared"] if self._stays(name, finish.keeps_factors)]
        context.lifecycle.succeed(
            self.namespace,
            id,
            self.job["attempt"],
            {**outcome, "cost": self._cost(), "shared": kept},
        )
        context.grids.close(id)
        context.objects.delete_prefix(places.paths.parts)
        for name in set(self.job["shared"]) - set(kept):
            context.shared.let_go(self.namespace, name, id)

    def tops(self, test: int) -> Iterator[Tensors]:
        """See `Parts`."""
        for train in range(self.equipment.plan.train.count):
            yield read_parts(self.context.objects, self._part(test, train), sums=False)

    def mean_sums(self, train: int) -> Iterator[Tensor]:
        """See `Parts`."""
        for test in range(self.equipment.plan.test.count):
            path = self._part(test, train)
            yield read_parts(self.context.objects, path, sums=True)[MEAN_SUMS]

    def _part(self, test: int, train: int) -> str:
        plan = self.equipment.plan
        return self.equipment.places.part(test * plan.train.count + train)

    def _require_all(self) -> None:
        """Every object is there, and the writer knows the digests that its writer told."""
        for stage, count in self.equipment.plan.stages().items():
            if stage in ("sums", "fit", "finish"):
                continue
            places, id = self.equipment.places, self.job["id"]
            there = places.there(self.context.objects, stage, count, self.work)
            if len(there) < count:
                raise InternalError(
                    f"{count - len(there)} of {count} objects of stage {stage!r} of {id} have gone from the object "
                    f"storage; retry the job: what is there is not computed again"
                )
            for number, digest in self.context.grids.digests(id, stage).items():
                self.writer.digests[places.of(stage, number, self.work)] = digest

    def _findings(self) -> Findings | None:
        plan, places, objects = self.equipment.plan, self.equipment.places, self.context.objects
        stage: Stage = "contract" if places.is_self else "solve"
        if not places.is_self and not plan.solves:
            return None
        paths = [places.of(stage, number, self.work) for number in range(plan.stages()[stage])]
        of_rows = [] if places.is_self else [read_of_rows(objects, path) for path in paths]
        return Findings(
            [read_summary(objects, path) for path in paths], of_rows, self.work.of_fit()
        )

    def _kept_factors(self) -> list[ObjectMeta]:
        folder = self.equipment.places.factors
        return sorted(self.context.objects.walk(folder), key=lambda meta: meta.path)

    def _stays(self, name: str, keeps_factors: bool) -> bool:
        """Whether a shared folder is of use after the job: its result's factors, or small enough for others."""
        folder, places = folder_of(self.namespace, name), self.equipment.places
        if folder == places.factors and keeps_factors:
            return True
        size = sum(meta.size for meta in self.context.objects.walk(folder))
        reuse = self.equipment.request.reuse
        return reuse and 0 < size <= self.context.settings.reuse_bytes

    def _cost(self) -> dict[str, Any]:
        figures = self.context.grids.figures(self.job["id"])
        return {
            "hessian_passes": figures.passes,
            "engine_seconds": figures.seconds,
            "seconds": figures.elapsed,
            "peak_memory_bytes": figures.peak_bytes,
        }
