"""Random projections of a layer's gradients, taken of what goes into the layer and of what comes back to it.

A row's gradient of a matrix is Σ_t g_t a_tᵀ over its tokens. With P_out (out, k_out) and P_in (in, k_in) its projection
is Σ_t (P_outᵀ g_t) (P_inᵀ a_t)ᵀ, k_out · k_in numbers, so that the gradient itself, out · in numbers, is never formed:
Choe et al., What is your data worth to GPT? (2024), arXiv:2405.13954; Park et al., TRAK (2023), arXiv:2303.14186.

The columns of a P are orthonormal times √(side / k): inner products are kept in the mean over draws, so that λ means
what it means for whole gradients, and are exact where k is the side.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import isqrt, sqrt

import torch
from torch import Tensor

from workers.engine.autodiff.uses import LookupUse, MatrixUse, learnt_tokens
from workers.engine.curvature.structured.layout import BlockLayout, Layout
from workers.engine.curvature.structured.sums import Column
from workers.engine.errors import BadParameter


def sides(rows: int, columns: int, count: int) -> tuple[int, int]:
    """(k_out, k_in) with k_out · k_in ≤ `count`: both sides whole where they fit, else as nearly alike as they can be.

    What a side that is kept whole leaves goes to the other.
    """
    if rows * columns <= count:
        return rows, columns
    side = isqrt(count)
    left = min(rows, side)
    right = min(columns, count // left)
    return min(rows, count // right), right


def shares(layouts: Sequence[BlockLayout], dimension: int) -> list[int]:
    """Numbers of each block: `dimension` for all blocks of a module together; what small ones leave goes to the others.

    Raises BadParameter where a module has more blocks than numbers.
    """
    found = [0] * len(layouts)
    modules: dict[str, list[int]] = {}
    for index, layout in enumerate(layouts):
        modules.setdefault(layout.layer, []).append(index)
    for layer, own in modules.items():
        if len(own) > dimension:
            raise BadParameter(
                "dimension",
                dimension,
                f"at least {len(own)}: layer {layer} has so many parameters that are projected apart",
            )
        left = dimension
        for place, index in enumerate(sorted(own, key=lambda each: layouts[each].size)):
            found[index] = min(layouts[index].size, left // (len(own) - place))
            left -= found[index]
    return found


@dataclass(frozen=True)
class ProjectedLayer:
    """The projection of one matrix of θ, which is all its groups' matrices one below the other.

    A side that is None is kept as it is. `formed`: its gradient has to be formed first, as that of a shift, of a
    factor, or of a parameter whose use no rule covers.
    """

    layout: BlockLayout
    formed: bool
    left: Tensor | None  # (rows, k_out)
    right: Tensor | None  # (columns, k_in), the bias last

    @classmethod
    def drawn(
        cls, layout: BlockLayout, count: int, generator: torch.Generator, like: Tensor
    ) -> ProjectedLayer:
        """To at most `count` numbers; the draws are in float64 on the CPU, wherever they are needed."""
        rows, columns = layout.groups * layout.rows, layout.columns
        left, right = sides(rows, columns, count)
        return cls(
            layout,
            bool(layout.why),
            _orthonormal(rows, left, generator, like),
            _orthonormal(columns, right, generator, like),
        )

    @property
    def sides(self) -> tuple[int, int]:
        """(k_out, k_in)."""
        layout = self.layout
        rows = layout.groups * layout.rows if self.left is None else self.left.shape[1]
        return rows, layout.columns if self.right is None else self.right.shape[1]

    def matrices(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """(rows, k_out) and (columns, k_in), in float64; of a side that is kept as it is the identity."""

        def whole(matrix: Tensor | None, size: int) -> Tensor:
            if matrix is None:
                return torch.eye(size, dtype=torch.float64, device=device)
            return matrix.double()

        rows = self.layout.groups * self.layout.rows
        return whole(self.left, rows), whole(self.right, self.layout.columns)

    def in_double(self) -> ProjectedLayer:
        """The same in float64."""
        return replace(
            self,
            left=None if self.left is None else self.left.double(),
            right=None if self.right is None else self.right.double(),
        )

    @property
    def numbers(self) -> int:
        """Of a row."""
        left, right = self.sides
        return left * right

    def of_gradients(self, gradients: Tensor) -> Tensor:
        """(k, p) -> (k, numbers)."""
        return self._of_matrices(self.layout.gathered(gradients).flatten(1, 2))

    def of_column(self, column: Column) -> Tensor:
        """(B, numbers) of the rows of a batch, by what went into the layer and what comes back."""
        layout = self.layout
        if self.formed:
            found = column.gradients(layout).view(column.rows, layout.rows, layout.columns)
            return self._of_matrices(found)
        total: Tensor | None = None
        for use, cotangent in column.uses(layout.names[0]):
            if isinstance(use, MatrixUse):
                found = self._of_tokens(use, cotangent, column.rows)
            else:
                assert isinstance(use, LookupUse)
                found = self._of_numbers(use, cotangent, column.rows)
            total = found if total is None else total + found
        if total is None:  # nothing comes back to it
            problem = column.collector.problem
            shape = (column.rows, self.numbers)
            return torch.zeros(shape, dtype=problem.dtype, device=problem.device)
        return total.flatten(1)

    def _of_matrices(self, found: Tensor) -> Tensor:
        if self.left is not None:
            found = self.left.mT @ found
        if self.right is not None:
            found = found @ self.right
        return found.flatten(1)

    def _of_tokens(self, use: MatrixUse, cotangent: Tensor, rows: int) -> Tensor:
        """(B, k_out, k_in): Σ over tokens and groups."""
        g, a = use.shaped(cotangent, rows), use.inputs(rows)  # (B, T, groups, out), (..., in)
        if self.left is not None:
            if use.groups == 1:
                g = g @ self.left
            else:
                g = torch.einsum("btgo,gok->btgk", g, self.left.unflatten(0, (use.groups, -1)))
        elif use.groups > 1:  # all rows are kept, and a group has its own alone
            g = _in_its_rows(g)
        if self.layout.has_bias and self.right is None:
            a = torch.cat([a, a.new_ones(*a.shape[:3], 1)], 3)
        elif self.right is not None:
            inside = a.shape[3]
            a = a @ self.right[:inside]
            if self.layout.has_bias:
                a += self.right[inside]
        g, a = g.flatten(1, 2), a.flatten(1, 2)
        if g.shape[1] == 1:
            return g.mT * a
        return g.mT @ a

    def _of_numbers(self, use: LookupUse, cotangent: Tensor, rows: int) -> Tensor:
        """(B, k_out, k_in) of rows that are looked up by their numbers."""
        numbers, g = learnt_tokens(use, cotangent, rows)  # (B, T), (B, T, width)
        if self.right is not None:
            g = g @ self.right
        if self.left is not None:
            return self.left[numbers].mT @ g
        found = g.new_zeros(rows, self.layout.rows, g.shape[2])
        return found.scatter_add_(1, numbers.unsqueeze(-1).expand(g.shape), g)


def _in_its_rows(g: Tensor) -> Tensor:
    """(B, T, groups, out) to (B, T, groups, groups · out), zeros in the rows of other groups."""
    groups, out = g.shape[2:]
    wide = g.new_zeros(*g.shape[:3], groups, out)
    wide.diagonal(dim1=2, dim2=3).copy_(g.movedim(2, -1))
    return wide.flatten(3)


def _orthonormal(side: int, count: int, generator: torch.Generator, like: Tensor) -> Tensor | None:
    if count == side:
        return None
    drawn = torch.randn(side, count, generator=generator, dtype=torch.float64)
    found = torch.linalg.qr(drawn)[0] * sqrt(side / count)
    return found.to(like).contiguous()


@dataclass(frozen=True)
class Projection:
    """Of all of θ, a matrix after the other."""

    layers: tuple[ProjectedLayer, ...]
    explained: frozenset[str]  # parameters whose gradients are known by their uses

    @classmethod
    def drawn(cls, layout: Layout, dimension: int, seed: int, like: Tensor) -> Projection:
        """Of parameters that are all matrices, to `dimension` numbers a module. Raises BadParameter."""
        generator = torch.Generator().manual_seed(seed)
        counts = shares(layout.blocks, dimension)
        layers = [
            ProjectedLayer.drawn(block, count, generator, like)
            for block, count in zip(layout.blocks, counts, strict=True)
        ]
        return cls(tuple(layers), layout.explained)

    @property
    def width(self) -> int:
        """Numbers of a row, in all."""
        return sum(each.numbers for each in self.layers)

    @property
    def formed(self) -> int:
        """Parameters whose gradients are formed."""
        return sum(each.layout.size for each in self.layers if each.formed)

    def of_gradients(self, gradients: Tensor) -> list[Tensor]:
        """(k, p) to the numbers of each layer."""
        return [each.of_gradients(gradients) for each in self.layers]

    def of_column(self, column: Column) -> list[Tensor]:
        """Of the rows of a batch, the numbers of each layer."""
        return [each.of_column(column) for each in self.layers]

    def tensors(self) -> dict[str, Tensor]:
        """The matrices, for storing; `with_tensors` takes them back."""
        found: dict[str, Tensor] = {}
        for index, each in enumerate(self.layers):
            for name, side in (("left", each.left), ("right", each.right)):
                if side is not None:
                    found[f"{index}.{name}"] = side
        return found

    def with_tensors(self, tensors: Mapping[str, Tensor]) -> Projection:
        """The same layers with stored matrices."""
        layers = [
            replace(each, left=tensors.get(f"{at}.left"), right=tensors.get(f"{at}.right"))
            for at, each in enumerate(self.layers)
        ]
        return replace(self, layers=tuple(layers))
