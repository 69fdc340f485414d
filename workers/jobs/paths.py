"""Where a block's object lies. An object that is there is a block that is done."""

from __future__ import annotations

from dataclasses import dataclass

from service.storage.arrays import chunk_path
from service.storage.keys import Document
from service.storage.layout import ResultPaths
from service.storage.objects import Objects
from service.storage.row_blocks import block_path
from service.storage.shared import folder_of
from upweight.schema import AttributionJob
from workers.fits.store import ROTATION, SQUARES, SUMS
from workers.jobs.plan import Plan, Stage


@dataclass(frozen=True)
class BlockPaths:
    """The objects of one job's blocks. `fit` and `factors` are folders that jobs may share."""

    plan: Plan
    result: ResultPaths
    fit: str
    factors: str
    fit_name: str | None
    keeps_matrix: bool
    is_self: bool
    layered: bool = False  # an axis λ
    is_index: bool = False

    def of(self, stage: Stage, number: int) -> str:
        """The object whose existence means that a block is done."""
        match stage:
            case "rotate":
                return f"{self.fit}/{ROTATION}.safetensors"
            case "sums" | "squares":
                return block_path(self.sums if stage == "sums" else self.squares, number)
            case "fit":
                return f"{self.fit}/{self.fit_name}.safetensors"
            case "solve":
                return block_path(self.factors, number)
            case "contract":
                return self._contraction(number)
            case "predict":
                side, rows = self.plan.prediction(number)
                return self.result.predictions_block(side, rows.start, rows.stop)
            case "finish":
                return self.result.manifest

    def _contraction(self, number: int) -> str:
        if self.is_self:
            return block_path(self.result.self_influences, number)
        if self.is_index:
            return chunk_path(self.result.index_numbers, number, 0, 2, layered=False)
        return self.chunk(number) if self.keeps_matrix else self.part(number)

    def chunk(self, number: int) -> str:
        """Of the matrix."""
        row, column = self.plan.contraction(number)
        axes = 2 + self.layered + len(self.plan.trailing)
        return chunk_path(self.result.influences, row, column, axes, layered=self.layered)

    def part(self, number: int) -> str:
        """What `finish` merges of a contraction."""
        return block_path(self.result.parts, number)

    @property
    def sums(self) -> str:
        """The parts of a Hessian, until it is fitted."""
        return f"{self.fit}/{SUMS}"

    @property
    def squares(self) -> str:
        """The parts of its second sums."""
        return f"{self.fit}/{SQUARES}"

    @classmethod
    def of_job(
        cls,
        job: Document,
        namespace: str,
        request: AttributionJob,
        plan: Plan,
        fit_name: str | None,
    ) -> BlockPaths:
        """Those of a job's record, which names the folders that it shares."""
        folders = [folder_of(namespace, name) for name in job["shared"]]
        return cls(
            plan=plan,
            result=ResultPaths(namespace, job["id"]),
            fit=folders[0],
            factors=folders[-1],
            fit_name=fit_name,
            keeps_matrix=request.keeps_matrix,
            is_self=request.is_self,
            layered=request.has_damping_axis,
            is_index=request.is_index,
        )

    def there(self, objects: Objects, stage: Stage, count: int) -> list[int]:
        """The blocks of a stage whose objects are there."""
        first = self.of(stage, 0)
        if count == 1:
            return [0] if objects.head(first) is not None else []
        folder = {
            "sums": self.sums,
            "squares": self.squares,
            "solve": self.factors,
            "predict": f"{self.result.prefix}/predictions",
        }.get(stage, self.result.prefix)
        present = {meta.path for meta in objects.walk(folder)}
        return [number for number in range(count) if self.of(stage, number) in present]
