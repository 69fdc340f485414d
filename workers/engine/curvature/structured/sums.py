"""What a fit is made of: sums over rows, which add up over any cut of the rows.

A sum is a GEMM over a batch in the problem's type, added to a total in float64: with totals in float32
the error would grow with the number of batches.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from glob import escape

import torch
from torch import Tensor
from torch.nn import functional as F

from workers.engine.autodiff.gradients import per_example_gradients
from workers.engine.autodiff.layer_io import LayerIO, layer_io
from workers.engine.autodiff.uses import LookupUse, MatrixUse, Use, learnt_tokens, row_gradient
from workers.engine.curvature.structured.blocks import ALIGNED, aligned_width, kronecker_rotated
from workers.engine.curvature.structured.columns import Along, Moment, columns
from workers.engine.curvature.structured.layout import BlockLayout, Layout
from workers.engine.model.losses import Loss
from workers.engine.model.losses.classification import ClassLoss
from workers.engine.model.losses.weighted import Weighted
from workers.engine.model.parameters import ParameterSlice
from workers.engine.model.problem import Problem
from workers.engine.model.rows import Batch, Targets

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Eigenbasis:
    """Of a Kronecker block's factors, each (groups, side, side) with its eigenvalues (groups, side) in float64.

    Nothing on the left where that factor is a diagonal. On the right as in `Block`: of some columns alone where there
    is an `order`.
    """

    left: Tensor | None
    left_values: Tensor | None
    right: Tensor
    right_values: Tensor
    order: Tensor | None = None  # (columns,)

    def tensors(self) -> Tensors:
        """For storing; `from_tensors` takes them back."""
        found = {
            "eigenvectors.left": self.left,
            "eigenvalues.left": self.left_values,
            "eigenvectors.right": self.right,
            "eigenvalues.right": self.right_values,
            "eigenvectors.order": self.order,
        }
        return {name: each for name, each in found.items() if each is not None}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], prefix: str = "") -> Eigenbasis:
        """Those under names that begin so."""
        return cls(
            tensors.get(f"{prefix}eigenvectors.left"),
            tensors.get(f"{prefix}eigenvalues.left"),
            tensors[f"{prefix}eigenvectors.right"],
            tensors[f"{prefix}eigenvalues.right"],
            tensors.get(f"{prefix}eigenvectors.order"),
        )


Bases = Mapping[int, Eigenbasis]  # by the block's number
# Entries of rows' gradients of a layer that are alive at once: larger ones leave the caches.
ALIVE = 1 << 19
# A symmetric product is taken in so many blocks of columns, from this side on.
SPLIT, SPLIT_SIDE = 3, 256


def add(total: Tensors, found: Mapping[str, Tensor]) -> None:
    """Add sums to a total in float64, in place."""
    for name, each in found.items():
        if name in total:
            total[name] += each
        else:
            total[name] = each.double()


def _join(sums: Tensors, found: Mapping[str, Tensor]) -> None:
    """Add to a batch's sums: in float64 once there are two, and till then as they are, in half of the memory."""
    for name, each in found.items():
        sums[name] = sums[name].double() + each if name in sums else each


@dataclass
class Collector:
    """Sums over the rows of a batch that is `placed`."""

    problem: Problem
    layout: Layout
    moment: Moment
    mask_input: int | None = None  # the position of an input (B, T) that is 0 at tokens that pad
    _others: dict[str, Problem] = field(default_factory=dict)

    def covariances(self, batch: Batch, part: Collection[int] | None = None) -> Tensors:
        """Σ a aᵀ and Σ g gᵀ of Kronecker blocks, and how many tokens; Σ g gᵀ or Σ g² of the others' gradients.

        `part`: numbers of the blocks that are asked for, by default all.
        """
        sums: Tensors = {}
        numbered = list(enumerate(self.layout.blocks))
        asked = numbered if part is None else [numbered[index] for index in part]
        kronecker = any(block.form == "kronecker" for _, block in asked)
        for number, column in enumerate(self.columns_of(batch)):
            if number == 0 and kronecker:
                column.reached = self._reached(column.io)
            for index, block in asked:
                key = f"{index}."
                if block.form == "kronecker":
                    found = self._factors(column, block, first=number == 0)
                elif block.form == "exact":
                    gradients = column.gradients(block)
                    found = {"square": gradients.mT @ gradients}
                elif block.form == "diagonal":
                    found = {"values": column.squares(block)}
                else:
                    found = {}
                _join(sums, {key + name: each for name, each in found.items()})
        sums["rows"] = torch.tensor([len(batch)], dtype=torch.float64, device=self.problem.device)
        return sums

    def squares(self, batch: Batch, bases: Bases) -> Tensors:
        """Σ (Q_Sᵀ W_n Q_A)² over the rows, of Kronecker blocks."""
        sums: Tensors = {}
        for column in self.columns_of(batch):
            for index, block in enumerate(self.layout.blocks):
                if block.form == "kronecker":
                    basis = bases[index]
                    found = column.rotated_squares(block, basis.left, basis.right, basis.order)
                    _join(sums, {f"{index}.values": found})
        return sums

    def columns_of(self, batch: Batch) -> Iterator[Column]:
        """The batch gone forward, and back once for each gradient that its rows add to C."""
        io = layer_io(self.problem, batch, self.layout.explained)
        for loss, targets in columns(self.problem, self.moment, io):
            yield Column(self, io, loss, targets, io.cotangents(loss, targets))

    def _reached(self, io: LayerIO) -> list[Tensor | None]:
        """Of each use (B, T), the tokens that any position with a label depends on; None where all are.

        Behind the end of a text nothing depends on a token, and its cotangent is 0 exactly, whatever it pads with.
        """
        loss, counted = self.problem.loss, None
        if isinstance(loss, ClassLoss | Weighted) and isinstance(io.outputs, Tensor):
            counted = loss.counted(io.outputs, io.batch.targets)
        if counted is None:
            return [None] * len(io.uses)
        assert isinstance(io.outputs, Tensor)
        # Random, so that no sum of them vanishes by chance: only what is 0 for every loss is 0 for this one.
        drawn = torch.rand(counted.shape, generator=torch.Generator().manual_seed(0)) + 0.5
        along = drawn.to(io.outputs) * counted
        found = io.cotangents(Along(), along)
        return [_tokens_reached(io, *each) for each in zip(io.uses, found, strict=True)]

    def _factors(self, column: Column, block: BlockLayout, *, first: bool) -> Tensors:
        """What only depends on inputs is counted once, for all columns of a row."""
        found: Tensors = {}
        tokens = 0.0
        for (use, cotangent), reached in zip(
            column.uses(block.names[0]), column.reached_by(block.names[0]), strict=True
        ):
            if isinstance(use, LookupUse):
                numbers, g = learnt_tokens(use, cotangent, column.rows)
                if first:
                    kept = self._kept(column, numbers, reached)
                    if use.padding is not None:
                        kept = kept * numbers.ne(use.padding)
                    tokens += float(kept.sum())
                    counts = torch.bincount(
                        numbers.flatten(), kept.flatten().to(g.dtype), minlength=block.rows
                    )
                    left = counts if block.diagonal_rows else torch.diag(counts).unsqueeze(0)
                    _join(found, {"left": left})
                g = g.flatten(0, 1)
                _join(found, {"right": (g.mT @ g).unsqueeze(0)})
                continue
            assert isinstance(use, MatrixUse)
            g = _by_group(use.shaped(cotangent, column.rows))
            _join(found, {"left": gram(g)})
            if first:
                a = use.inputs(column.rows)
                kept = self._kept(column, a[:, :, 0, 0], reached)
                count = float(kept.sum())
                tokens += count
                if count < kept.numel():
                    a = a * kept.view(*kept.shape, 1, 1).to(a.dtype)
                _join(found, {"right": _second_moment(_by_group(a), count, bias=block.has_bias)})
        if first:
            _join(found, {"tokens": torch.tensor([tokens], device=self.problem.device)})
        return found

    def _kept(self, column: Column, like: Tensor, reached: Tensor | None) -> Tensor:
        """(B, T) ones, but for tokens that pad: by the mask, or without one those that no label depends on."""
        if self.mask_input is not None:
            mask = column.io.batch.inputs[self.mask_input][: column.rows]
            if mask.shape == like.shape:
                return mask != 0
        if reached is not None:
            return reached
        return torch.ones(like.shape, dtype=torch.bool, device=like.device)

    def other(self, loss: Loss, names: Sequence[str]) -> Problem:
        """The same model with this loss and these parameters alone."""
        key = f"{type(loss).__name__} {' '.join(names)}"
        if key not in self._others:
            own = self.problem
            self._others[key] = Problem(
                own.module,
                loss,
                [escape(each) for each in names],
                dtype=own.dtype,
                device=own.device,
            )
        return self._others[key]


@dataclass
class Column:
    """A gradient of each row of a batch: of this loss with these targets."""

    collector: Collector
    io: LayerIO
    loss: Loss
    targets: Targets
    cotangents: Sequence[Tensor | None]
    reached: Sequence[Tensor | None] = ()  # of each use (B, T), where it is asked for
    _unexplained: dict[str, Tensor] | None = None

    @property
    def rows(self) -> int:
        """B."""
        return self.io.rows

    def uses(self, name: str) -> Iterator[tuple[Use, Tensor]]:
        """The uses of a parameter and their cotangents, of the rows that count; zeros where nothing arrives."""
        for use, cotangent in self.io.of_rows(self.cotangents):
            if name in use.names:
                yield use, cotangent

    def reached_by(self, name: str) -> Iterator[Tensor | None]:
        """Of the same uses (B, T), the tokens that labels depend on; None: all."""
        for number, use in enumerate(self.io.uses):
            if name in use.names and self.cotangents[number] is not None:
                yield self.reached[number] if self.reached else None

    def gradients(self, block: BlockLayout) -> Tensor:
        """(B, size), in the block's order."""
        return torch.cat([self._gradient(name) for name in block.names], 1)

    def _gradient(self, name: str) -> Tensor:
        problem = self.collector.problem
        place = self.collector.layout.places[name]
        if name not in self.collector.layout.explained:
            return self._by_autograd()[name]
        result = torch.zeros(self.rows, place.size, dtype=problem.dtype, device=problem.device)
        for use, cotangent in self.uses(name):
            result += row_gradient(use, name, place.shape, cotangent, self.rows)
        return result

    def _by_autograd(self) -> dict[str, Tensor]:
        """Gradients (B, size) of the parameters that no rule explains."""
        if self._unexplained is None:
            layout = self.collector.layout
            names = [name for name in layout.places if name not in layout.explained]
            problem = self.collector.other(self.loss, names)
            batch = Batch(self.io.batch.inputs, self.targets, self.io.batch.start)
            found = per_example_gradients(problem, batch.narrow(0, self.rows))
            self._unexplained = {
                each.name: found[:, each.offset : each.offset + each.size]
                for each in problem.layout
            }
        return self._unexplained

    def squares(self, block: BlockLayout) -> Tensor:
        """Σ g² over the rows, entry by entry: (size,)."""
        pieces = []
        for name in block.names:
            place = self.collector.layout.places[name]
            pieces.append(self._squares_of(name, place))
        return torch.cat(pieces)

    def _squares_of(self, name: str, place: ParameterSlice) -> Tensor:
        uses = [use for use, _ in self.uses(name)]
        matrices = bool(uses) and all(
            isinstance(use, MatrixUse) and use.weight == name and use.groups == 1 for use in uses
        )
        # Uses of W and of Wᵀ have no matrix in common whose rows are the outputs of both.
        matrices &= len({use.transposed for use in uses if isinstance(use, MatrixUse)}) < 2
        lookups = bool(uses) and all(isinstance(use, LookupUse) for use in uses)
        if name not in self.collector.layout.explained or not (matrices or lookups):
            return self._gradient(name).square().sum(0)
        first = uses[0]
        turned = isinstance(first, MatrixUse) and first.transposed
        inside = place.shape[0] if turned else place.size // place.shape[0]
        block = BlockLayout(
            "", "kronecker", (name,), (0,), (place.size,), rows=place.size // inside,
            columns=inside, transposed=turned, diagonal_rows=lookups,
        )  # fmt: skip
        found = self.rotated_squares(block, None, None)
        return (found.squeeze(0).mT if turned else found).flatten()

    def rotated_squares(
        self,
        block: BlockLayout,
        left: Tensor | None,
        right: Tensor | None,
        order: Tensor | None = None,
    ) -> Tensor:
        """Σ over the rows of (Q_Sᵀ W_n Q_A)², (groups, rows, columns): all uses are summed before they are squared."""
        if block.diagonal_rows:
            return self._looked_up_squares(block, right)
        g, a = self._matrix_io(block)
        bias = 1 if block.has_bias else 0
        if order is not None:
            assert right is not None
            # A bias is the last column, and always used.
            used = order[: right.shape[-1]]
            a = a.index_select(3, used[: len(used) - bias])
            absent = len(order) - len(used)
            return F.pad(self._squares_of_matrices(block, g, a, left, right), (0, absent))
        return self._squares_of_matrices(block, g, a, left, right)

    def _squares_of_matrices(
        self, block: BlockLayout, g: Tensor, a: Tensor, left: Tensor | None, right: Tensor | None
    ) -> Tensor:
        bias = 1 if block.has_bias else 0
        tokens, outputs, inside = g.shape[1], block.rows, a.shape[3] + bias
        # Each side is rotated where it has fewer numbers: at the tokens, or in the rows' gradients.
        if left is not None and (tokens == 1 or tokens <= inside):
            g, left = torch.einsum("btgo,gop->btgp", g, left), None
        if right is not None and (tokens == 1 or tokens <= outputs):
            a, right = _rotated_inputs(a, right, bias=block.has_bias), None
        elif bias:
            a = torch.cat([a, a.new_ones(*a.shape[:3], 1)], 3)
        if tokens == 1:
            squared = a[:, 0].square().movedim(0, 2), g[:, 0].square().movedim(0, 1)
            return (squared[0] @ squared[1]).mT.contiguous()
        # Transposed where its rows then lie better in memory: there seldom is a 1 beside the outputs.
        turned = inside % ALIGNED > 0 and outputs % ALIGNED == 0
        if turned:
            (g, left), (a, right) = (a, right), (g, left)
            outputs, inside = inside, outputs
        total = torch.zeros(block.groups, outputs, inside, dtype=g.dtype, device=g.device)
        g, a = (
            g.permute(0, 2, 3, 1),
            a.permute(0, 2, 1, 3),
        )  # (B, groups, out, T), (B, groups, T, in)
        for some_g, some_a in _in_parts(g, a, max(1, ALIVE // total.numel())):
            found = kronecker_rotated(some_g @ some_a, left, right)
            total += found.square_().sum(0)
        return total.mT.contiguous() if turned else total

    def _matrix_io(self, block: BlockLayout) -> tuple[Tensor, Tensor]:
        """g (B, T, groups, out) and a (B, T, groups, in) with all uses' tokens side by side."""
        pairs: list[tuple[Tensor, Tensor]] = []
        for use, cotangent in self.uses(block.names[0]):
            if isinstance(use, MatrixUse):
                pairs.append((use.shaped(cotangent, self.rows), use.inputs(self.rows)))
            elif isinstance(use, LookupUse):
                tokens, g = learnt_tokens(use, cotangent, self.rows)
                picked = torch.nn.functional.one_hot(tokens, block.rows).to(g.dtype)
                pairs.append((picked.unsqueeze(2), g.unsqueeze(2)))
        if not pairs:
            problem = self.collector.problem
            inside = block.columns - block.has_bias
            like = torch.zeros(self.rows, 1, block.groups, 1, dtype=problem.dtype)
            like = like.to(problem.device)
            return like.expand(-1, -1, -1, block.rows), like.expand(-1, -1, -1, inside)
        if len(pairs) == 1:
            return pairs[0]
        return torch.cat([g for g, _ in pairs], 1), torch.cat([a for _, a in pairs], 1)

    def _looked_up_squares(self, block: BlockLayout, right: Tensor | None) -> Tensor:
        """Of embeddings: only rows that a row's tokens pick have a gradient."""
        problem = self.collector.problem
        total = torch.zeros(block.rows, block.columns, dtype=problem.dtype, device=problem.device)
        keys, parts = [], []
        for use, cotangent in self.uses(block.names[0]):
            assert isinstance(use, LookupUse)
            tokens, g = learnt_tokens(use, cotangent, self.rows)
            row = torch.arange(self.rows, device=tokens.device).unsqueeze(1) * block.rows
            keys.append((tokens + row).flatten())
            parts.append(g.flatten(0, 1))
        if keys:
            places, where = torch.unique(torch.cat(keys), return_inverse=True)
            g = torch.cat(parts)
            summed = g.new_zeros(len(places), block.columns).index_add_(0, where, g)
            summed = summed if right is None else summed @ right[0]
            total.index_add_(0, places % block.rows, summed.square_())
        return total.unsqueeze(0)


def _tokens_reached(io: LayerIO, use: Use, cotangent: Tensor | None) -> Tensor | None:
    """(B, T), of the rows that count."""
    whole = len(io.batch)
    if isinstance(use, LookupUse):
        tokens = use.tokens.reshape(whole, -1)
        if cotangent is None:
            return torch.zeros_like(tokens[: io.rows], dtype=torch.bool)
        return (cotangent.reshape(*tokens.shape, -1) != 0).any(-1)[: io.rows]
    if not isinstance(use, MatrixUse) or cotangent is None:
        return None
    return (use.shaped(cotangent, whole) != 0).any(-1).any(-1)[: io.rows]


def _by_group(value: Tensor) -> Tensor:
    """(B, T, groups, c) to (groups, B T, c)."""
    return value.movedim(2, 0).flatten(1, 2)


def _rotated_inputs(a: Tensor, right: Tensor, *, bias: bool) -> Tensor:
    """(B, T, groups, in), with a 1 appended where there is a bias, times (groups, columns, columns)."""
    flat, inside, columns = _by_group(a), a.shape[3], right.shape[2]
    right = F.pad(right, (0, aligned_width(columns) - columns))
    found = torch.baddbmm(right[:, inside:], flat, right[:, :inside]) if bias else flat @ right
    return found[..., :columns].unflatten(1, a.shape[:2]).movedim(0, 2)


def gram(a: Tensor) -> Tensor:
    """aᵀ a of (groups, N, c): what is on and above the diagonal of its blocks, and the rest by symmetry."""
    side = a.shape[2]
    if side < SPLIT_SIDE:
        return a.mT @ a
    result = a.new_empty(len(a), side, side)
    width = -(-side // SPLIT)
    width += -width % ALIGNED
    for first in range(0, side, width):
        here, before = slice(first, first + width), slice(0, first + width)
        torch.bmm(a[:, :, before].mT, a[:, :, here], out=result[:, before, here])
        result[:, here, :first] = result[:, :first, here].mT
    return result


def _second_moment(a: Tensor, count: float, *, bias: bool) -> Tensor:
    """Σ a aᵀ of (groups, N, in), with a 1 appended to each of so many a where there is a bias."""
    inner = gram(a)
    if not bias:
        return inner
    groups, inside = inner.shape[:2]
    result = inner.new_empty(groups, inside + 1, inside + 1)
    result[:, :inside, :inside] = inner
    result[:, :inside, inside] = result[:, inside, :inside] = a.sum(1)
    result[:, inside, inside] = count
    return result


def _in_parts(g: Tensor, a: Tensor, rows: int) -> Iterator[tuple[Tensor, Tensor]]:
    for first in range(0, len(g), rows):
        yield g[first : first + rows], a[first : first + rows]
