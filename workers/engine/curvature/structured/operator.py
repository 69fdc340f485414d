"""A structured curvature as an operator: fitted by one pass over the rows, or two, and then known in closed form."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from workers.engine.autodiff.layer_uses import bytes_of_row
from workers.engine.curvature.of_rows import OverRows
from workers.engine.curvature.structured.blocks import (
    Block,
    Spectral,
    entries_of,
    told_of_diagonal,
    with_diagonal,
)
from workers.engine.curvature.structured.columns import Moment
from workers.engine.curvature.structured.layout import BlockLayout, Layout, Structure
from workers.engine.curvature.structured.sums import Bases, Collector, Eigenbasis, Tensors, add
from workers.engine.errors import BadParameter, NotFinite, OutOfMemory
from workers.engine.model.batching import (
    DEFAULT_BUDGET,
    BatchSize,
    RowBlock,
    activation_bytes,
    over_rows,
    rows_at_once,
)
from workers.engine.model.problem import Problem
from workers.engine.model.rows import Batch, Rows
from workers.engine.model.second_order import once_differentiable
from workers.engine.operators import ClosedForm, Curvature
from workers.engine.progress import Progress, silent

SQUARED = "squared_rows"  # how many, where the second sums are at hand


@dataclass(frozen=True)
class Options:
    """How a structured curvature is made. `mask_input` is the position of an input (B, T) that is 0 where a token pads.

    `probe`: rows that the layout is found on, those of the whole where `rows` are a part of it.
    """

    told: Mapping[str, Any] = field(default_factory=dict)  # of its kind, for the info
    mask_input: int | None = None
    probe: Rows | None = None
    batch_size: BatchSize = "auto"
    budget_bytes: int = DEFAULT_BUDGET
    progress: Progress | None = None


class Structured(OverRows):
    """What `structure` keeps of the mean over ALL n rows of the rows' second moments.

    The Hessian of the problem's L2 term, a diagonal, is added to what is kept: it belongs to no row and to no sum.
    """

    def __init__(
        self,
        problem: Problem,
        rows: Rows,
        moment: Moment,
        structure: Structure,
        options: Options | None = None,
    ) -> None:
        if len(rows) == 0:
            raise BadParameter("rows", 0, "a curvature needs at least one training row")
        self.problem, self.rows = problem, rows
        self.moment, self.structure = moment, structure
        self.passes = 0
        self._options = options or Options()
        self._progress = self._options.progress or silent
        self._collector: Collector | None = None
        self._first: Mapping[str, Tensor] | None = None
        self._spectral: Spectral | None = None

    def matmat(self, vectors: Tensor) -> Tensor:
        """C v for each row v of (k, p)."""
        return self.closed_form().matmat(vectors)

    def dense(self) -> Tensor:
        """C, (p, p)."""
        return self.closed_form().dense()

    def in_double(self) -> Structured:
        """The same in float64."""
        return Structured(
            self.problem.in_double(), self.rows, self.moment, self.structure, self._options
        )

    def partial_sums(self) -> Tensors:
        """The first sums, where there is anything to sum."""
        if self.structure == "identity":
            return {"rows": torch.tensor([len(self.rows)], dtype=torch.float64)}
        return self.covariances()

    def rotation(self, total: Mapping[str, Tensor]) -> Tensors:
        """The factors' eigenvectors in the factors' place, and what else of the first sums the fit is made of."""
        bases = self.bases(total)
        spent = {f"{index}.{side}" for index in bases for side in ("left", "right")}
        found = {name: each for name, each in total.items() if name not in spent}
        for index, basis in bases.items():
            found |= {f"{index}.{name}": each for name, each in basis.tensors().items()}
        return found

    def second_sums(self, rotation: Mapping[str, Tensor]) -> Tensors:
        """The squares of rotated gradients; nothing but the number of rows where no block is a Kronecker product."""
        found = self.squares(self._known_bases(rotation)) if self.needs_second_pass else {}
        return {**found, SQUARED: torch.tensor([len(self.rows)], dtype=torch.float64)}

    def _known_bases(self, rotation: Mapping[str, Tensor]) -> Bases:
        blocks = enumerate(self.collector.layout.blocks)
        return {
            index: Eigenbasis.from_tensors(rotation, f"{index}.")
            for index, block in blocks
            if block.form == "kronecker"
        }

    def of_sums(self, total: Mapping[str, Tensor]) -> Structured:
        """With the first sums at hand, or all sums and the eigenvectors."""
        self._first = total
        return self

    def known_by(self, closed: ClosedForm) -> Curvature:
        """With a closed form that was made before."""
        assert isinstance(closed, Spectral)
        self._spectral = closed
        return self

    def closed_form(self) -> Spectral:
        """C by its eigenvectors: made once, by passes over the rows."""
        if self._spectral is None:
            first = self._first
            if first is None:
                first = {} if self.structure == "identity" else self.covariances()
            second: Mapping[str, Tensor] = {}
            if SQUARED in first:
                bases, second = self._known_bases(first), first
            else:
                bases = self.bases(first)
                second = self.squares(bases) if self.needs_second_pass else {}
            self._spectral = self.made(first, bases, second)
        return self._spectral

    @property
    def needs_second_pass(self) -> bool:
        """Whether the eigenvalues are means over rows in the eigenbases, which must be there first."""
        return self.structure == "ekfac" and any(
            block.form == "kronecker" for block in self.collector.layout.blocks
        )

    @property
    def collector(self) -> Collector:
        """What sums over a batch; made once."""
        if self._collector is None:
            probe = self.rows if self._options.probe is None else self._options.probe
            layout = Layout.found(self.problem, probe, self.structure)
            self._require_memory(layout)
            self._collector = Collector(self.problem, layout, self.moment, self._options.mask_input)
        return self._collector

    def covariances(self) -> Tensors:
        """The first sums over all rows; sums over parts of the rows add up to them."""
        return self._summed(self.collector.covariances, "covariances")

    def squares(self, bases: Bases) -> Tensors:
        """The second sums over all rows, in these eigenbases."""
        return self._summed(lambda batch: self.collector.squares(batch, bases), "eigenvalues")

    def bases(self, first: Mapping[str, Tensor]) -> Bases:
        """The eigenvectors of each Kronecker block's factors, from the first sums."""
        found: dict[int, Eigenbasis] = {}
        for index, block in enumerate(self.collector.layout.blocks):
            if block.form == "kronecker":
                values, left = None, None
                if not block.diagonal_rows:
                    values, left = self._eigen(first[f"{index}.left"])
                of_right, right = self._eigen(first[f"{index}.right"])
                found[index] = Eigenbasis(left, values, right, of_right)
                self._progress(
                    "eigenvectors", index + 1, len(self.collector.layout.blocks), "blocks"
                )
        return found

    def made(
        self, first: Mapping[str, Tensor], bases: Bases, second: Mapping[str, Tensor]
    ) -> Spectral:
        """C of the sums over all rows, and the eigenvectors of the first."""
        layout = self.collector.layout
        blocks = tuple(
            self._block(index, block, first, bases, second)
            for index, block in enumerate(layout.blocks)
        )
        told = {**self._options.told, **told_of_diagonal(blocks, self._penalty)}
        return Spectral.of(self, blocks, self.structure, told)

    @property
    def _penalty(self) -> Tensor | None:
        """(p,) factors of the L2 term; the identity stands for no curvature, and has none."""
        return None if self.structure == "identity" else self.problem.penalty

    def _block(
        self,
        index: int,
        block: BlockLayout,
        first: Mapping[str, Tensor],
        bases: Bases,
        second: Mapping[str, Tensor],
    ) -> Block:
        rows, penalty = len(self.rows), self._penalty
        if block.form == "exact":
            square = first[f"{index}.square"] / rows
            if penalty is not None:
                square = square + entries_of(block, penalty).diag()
            values, vectors = self._eigen(square)
            return Block(block, values.clamp(min=0.0), vectors)
        if block.form == "identity":
            found = Block(block, torch.ones(block.size, dtype=torch.float64, device=self.device))
        elif block.form == "diagonal":
            found = Block(block, first[f"{index}.values"] / rows)
        else:
            found = self._kronecker(index, block, first, bases[index], second)
        return found if penalty is None else with_diagonal(found, entries_of(block, penalty))

    def _kronecker(
        self,
        index: int,
        block: BlockLayout,
        first: Mapping[str, Tensor],
        basis: Eigenbasis,
        second: Mapping[str, Tensor],
    ) -> Block:
        if self.structure == "ekfac":
            values = second[f"{index}.values"] / len(self.rows)
            return Block(block, values, basis.left, basis.right)
        tokens = first[f"{index}.tokens"].clamp(min=1.0)
        # A factor that is a diagonal has its eigenvalues there.
        of_left = first[f"{index}.left"] if basis.left_values is None else basis.left_values
        of_left = of_left.clamp(min=0.0) / tokens
        of_right = basis.right_values.clamp(min=0.0) / tokens
        values = of_left.view(block.groups, -1, 1) * of_right.view(block.groups, 1, -1)
        return Block(block, values, basis.left, basis.right)

    def _eigen(self, square: Tensor) -> tuple[Tensor, Tensor]:
        """Eigenvalues in float64 and eigenvectors in the problem's type, of a symmetric matrix in float64."""
        if not bool(torch.isfinite(square).all()):
            raise NotFinite("the sums of the curvature")
        values, vectors = torch.linalg.eigh(_symmetric(square))
        return values, vectors.to(self.dtype).contiguous()

    def _summed(self, work: Callable[[Batch], Tensors], what: str) -> Tensors:
        total: Tensors = {}
        rows = rows_at_once(
            self._options.batch_size,
            len(self.rows),
            self._row_bytes(),
            self._options.budget_bytes,
            self.device.type,
        )

        def of_batch(batch: Batch) -> Tensors:
            with once_differentiable():
                return work(self.problem.placed(batch))

        for _, found in over_rows(
            self.rows, RowBlock(rows), of_batch, what=what, progress=self._progress
        ):
            add(total, found)
        self.passes += 1
        return total

    def _row_bytes(self) -> int:
        """Of one more row of a batch, also of those gradients that no layer explains."""
        layout = self.collector.layout
        found = bytes_of_row(self.problem, self.rows, layout.explained)
        unexplained = sum(
            each.size for name, each in layout.places.items() if name not in layout.explained
        )
        if unexplained:
            found += (
                activation_bytes(self.problem, self.rows) + 2 * unexplained * self.dtype.itemsize
            )
        return found

    def _require_memory(self, layout: Layout) -> None:
        """Raises OutOfMemory, in bytes, where sums and eigenvectors are more than the budget."""
        needed = fit_bytes(layout.blocks, self.dtype.itemsize)
        if needed > self._options.budget_bytes:
            largest = max(layout.blocks, key=lambda block: fit_bytes((block,), 8))
            raise OutOfMemory(
                f"a {self.structure} curvature of {needed:,} bytes, where {self._options.budget_bytes:,} may be used",
                f"choose structure diagonal, or select fewer parameters: {largest.layer} is the largest",
            )


def fit_bytes(blocks: Iterable[BlockLayout], itemsize: int) -> int:
    """Bytes of the sums in float64, and of the eigenvectors and eigenvalues made of them."""
    total = 0
    for block in blocks:
        if block.form == "kronecker":
            left = block.rows if block.diagonal_rows else block.rows**2
            factors = block.groups * (left + block.columns**2)
            total += factors * (8 + itemsize) + 16 * block.groups * block.rows * block.columns
        elif block.form == "exact":
            total += block.size**2 * (8 + itemsize)
        else:
            total += 8 * block.size
    return total


def _symmetric(square: Tensor) -> Tensor:
    return (square + square.mT) / 2
