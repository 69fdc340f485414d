"""A structured curvature as an operator: fitted by one pass over the rows, or two, and then known in closed form."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

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

# Up to this part of a layer's inputs, those that are never anything but 0 are left out of its eigenvectors.
MOSTLY_USED = 0.75
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
        """The first sums, where there is anything to sum. Raises OutOfMemory where those of all layers do not fit."""
        if self.structure == "identity":
            return {"rows": torch.tensor([len(self.rows)], dtype=torch.float64)}
        if len(self._parts()) > 1:
            needed = sum(map(sum_bytes, self.collector.layout.blocks))
            raise OutOfMemory(
                f"{needed:,} bytes of sums over a block of rows, where {self._options.budget_bytes:,} may be used",
                "leave out blocks.hessian_rows: without it a few layers are summed at a time",
            )
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
            second: Mapping[str, Tensor] = {}
            known: Mapping[int, Block] = {}
            if first is None:
                first, bases, known = self._fitted()
            elif SQUARED in first:
                bases, second = self._known_bases(first), first
            else:
                bases = self.bases(first)
            if self.needs_second_pass and SQUARED not in first:
                second = self.squares(bases)
            self._spectral = self.made(first, bases, second, known)
        return self._spectral

    def _fitted(self) -> tuple[Tensors, Bases, Mapping[int, Block]]:
        """Eigenvectors, and what else of the first sums is needed, a part of the layers at a time.

        Sums are in float64 and go as their eigenvectors come: within the budget, at the cost of a pass a part.
        """
        rest: Tensors = {}
        bases: dict[int, Eigenbasis] = {}
        known: dict[int, Block] = {}
        layout = self.collector.layout
        for part in self._parts():
            sums = self.covariances(part)
            self._decomposed(bases)
            # The largest last: the sums of the others are gone then, and it is known how long it will take.
            for index in sorted(part, key=lambda each: sum_bytes(layout.blocks[each])):
                block = layout.blocks[index]
                if block.form == "kronecker":
                    bases[index] = self._basis(index, block, sums)
                    self._decomposed(bases)
                    spent = ("right",) if block.diagonal_rows else ("left", "right")
                else:
                    known[index] = self._block(index, block, sums, {}, {})
                    spent = ("square", "values")
                for name in spent:
                    sums.pop(f"{index}.{name}", None)
            rest |= sums
        return rest, bases, known

    def _parts(self) -> list[list[int]]:
        """Numbers of blocks that are summed in one pass."""
        if self.structure == "identity":
            return []
        blocks = self.collector.layout.blocks
        return summed_together(blocks, self.dtype.itemsize, self._options.budget_bytes)

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

    def covariances(self, part: Collection[int] | None = None) -> Tensors:
        """The first sums over all rows, of these blocks or all; sums over parts of the rows add up to them."""
        collector = self.collector
        return self._summed(lambda batch: collector.covariances(batch, part), "covariances")

    def squares(self, bases: Bases) -> Tensors:
        """The second sums over all rows, in these eigenbases."""
        return self._summed(lambda batch: self.collector.squares(batch, bases), "eigenvalues")

    def bases(self, first: Mapping[str, Tensor]) -> Bases:
        """The eigenvectors of each Kronecker block's factors, from the first sums."""
        found: dict[int, Eigenbasis] = {}
        self._decomposed(found)
        for index, block in enumerate(self.collector.layout.blocks):
            if block.form == "kronecker":
                found[index] = self._basis(index, block, first)
                self._decomposed(found)
        return found

    def _decomposed(self, bases: Collection[int]) -> None:
        """Tells which part of the operations is done, for blocks are of very different sizes."""
        work = {
            index: block.groups * (block.rows**3 * (not block.diagonal_rows) + block.columns**3)
            for index, block in enumerate(self.collector.layout.blocks)
            if block.form == "kronecker"
        }
        if work:
            share = sum(work[index] for index in bases) / sum(work.values())
            self._progress("eigenvectors", int(100 * share), 100, "per cent of the operations")

    def _basis(self, index: int, block: BlockLayout, first: Mapping[str, Tensor]) -> Eigenbasis:
        values, left = None, None
        if not block.diagonal_rows:
            values, left = self._eigen(first[f"{index}.left"])
        square = first[f"{index}.right"]
        order, count = (None, block.columns) if block.diagonal_rows else _used_first(square)
        if order is not None:
            square = square[:, order[:count]][:, :, order[:count]]
        of_right, right = self._eigen(square)
        of_right = F.pad(of_right, (0, block.columns - of_right.shape[-1]))
        return Eigenbasis(left, values, right, of_right, order)

    def made(
        self,
        first: Mapping[str, Tensor],
        bases: Bases,
        second: Mapping[str, Tensor],
        known: Mapping[int, Block],
    ) -> Spectral:
        """C of the sums over all rows, and the eigenvectors of the first; `known`: blocks that are there."""
        layout = self.collector.layout
        blocks = tuple(
            known[index] if index in known else self._block(index, block, first, bases, second)
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
            return Block(block, values, basis.left, basis.right, basis.order)
        tokens = first[f"{index}.tokens"].clamp(min=1.0)
        # A factor that is a diagonal has its eigenvalues there.
        of_left = first[f"{index}.left"] if basis.left_values is None else basis.left_values
        of_left = of_left.clamp(min=0.0) / tokens
        of_right = basis.right_values.clamp(min=0.0) / tokens
        values = of_left.view(block.groups, -1, 1) * of_right.view(block.groups, 1, -1)
        return Block(block, values, basis.left, basis.right, basis.order)

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
                f"the {self.structure} curvature of {needed:,} bytes, where {self._options.budget_bytes:,} may be used",
                f"choose structure diagonal, or select fewer parameters: {largest.layer} is the largest",
            )


def fit_bytes(blocks: Sequence[BlockLayout], itemsize: int) -> int:
    """Bytes at least: what the fit keeps, and of the sums that it comes from those of one layer."""
    return kept_bytes(blocks, itemsize) + max(map(sum_bytes, blocks))


def summed_together(
    blocks: Sequence[BlockLayout], itemsize: int, budget_bytes: int
) -> list[list[int]]:
    """Numbers of blocks whose first sums fit beside what the fit keeps: all together, where they do."""
    room = budget_bytes - kept_bytes(blocks, itemsize) - max(map(decomposing_bytes, blocks))
    parts: list[list[int]] = []
    left = 0
    for index, block in enumerate(blocks):
        needed = sum_bytes(block)
        if not parts or 0 < needed > left:  # what needs nothing goes along
            parts.append([])
            left = room
        parts[-1].append(index)
        left -= needed
    return parts


def kept_bytes(blocks: Iterable[BlockLayout], itemsize: int) -> int:
    """Of the eigenvectors, and of the eigenvalues in float64, which are there twice when they become means."""
    total = 0
    for block in blocks:
        if block.form == "kronecker":
            total += itemsize * sum(_factor_sizes(block)) + 16 * block.size
        elif block.form == "exact":
            total += itemsize * block.size**2
        else:
            total += 8 * block.size
    return total


def sum_bytes(block: BlockLayout) -> int:
    """Of a block's first sums, in float64."""
    if block.form == "kronecker":
        return 8 * sum(_factor_sizes(block))
    return 8 * block.size**2 if block.form == "exact" else 0


def decomposing_bytes(block: BlockLayout) -> int:
    """What `eigh` takes beside a factor, of the larger one: a copy of it, its result and twice that to work in."""
    if block.form == "kronecker":
        return 4 * 8 * max(_factor_sizes(block))
    return 4 * 8 * block.size**2 if block.form == "exact" else 0


def _factor_sizes(block: BlockLayout) -> tuple[int, int]:
    """Numbers of both factors."""
    left = block.rows if block.diagonal_rows else block.rows**2
    return block.groups * left, block.groups * block.columns**2


def _used_first(square: Tensor) -> tuple[Tensor | None, int]:
    """Of (groups, side, side): numbers of the columns that are not all 0, then of the others, and how many are not.

    None where they are most of them. Windows at the edges of a small image lie for the most part outside of it: of
    the 4,608 inputs of a ResNet's last convolutions over a single pixel, 4,096 are 0 in every row of the data.
    """
    used = (square != 0).any(-1).any(0)
    count = int(used.sum())
    if count == 0 or count > MOSTLY_USED * len(used):
        return None, len(used)
    return torch.argsort(~used, stable=True), count


def _symmetric(square: Tensor) -> Tensor:
    return (square + square.mT) / 2
