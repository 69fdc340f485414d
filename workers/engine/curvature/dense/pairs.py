"""The Hessian of a chain of linear layers as a few large matrix products, a pair of layers each.

With h = [a; 1] of each layer and the rows' derivatives of `chain`, for l ≤ m

    H[(m, i, j), (l, k, q)] = (1/n) Σ_rows  S_ml[i, k] h_m[j] h_l[q]  +  [l < m] δ_m[i] J[j, k] h_l[q].

The first term is a product (out_m out_l × n) (n × d_m d_l); of a layer with itself only the upper
triangles of S and of h hᵀ are taken, a quarter of the work. In all that is about n p² operations,
where p products take n p² times 4 to 6 twice, and in larger pieces.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from workers.engine.autodiff.graph.linear import LinearLayer
from workers.engine.curvature.dense.chain import ChainLayer, Crossing
from workers.engine.model.parameters import ParameterSlice

# Of so few pairs of outputs each has a product h Sᵢₖ hᵀ of its own: squares of h would be written and read for little.
FEW_PAIRS = 6


class Scratch:
    """One piece of memory for products of multipliers: fresh pages cost more than what is in them."""

    def __init__(self) -> None:
        self._memory: Tensor | None = None

    def of(self, count: int, like: Tensor) -> Tensor:
        """(count, B), for like (…, B); good until asked for again."""
        size = count * like.shape[1]
        if self._memory is None or self._memory.numel() < size:
            self._memory = like.new_empty(size)
        return self._memory[:size].view(count, like.shape[1])

    def outer(self, left: Tensor, right: Tensor) -> Tensor:
        """The outer product of each row: (a, B) and (b, B) to (a b, B)."""
        products = self.of(len(left) * len(right), right)
        torch.mul(left.unsqueeze(1), right, out=products.view(len(left), *right.shape))
        return products


@dataclass
class Own:
    """A layer with itself: Σ S ⊗ h hᵀ, the upper triangles of both."""

    layer: LinearLayer
    total: Tensor  # (out (out + 1) / 2, d (d + 1) / 2)
    scratch: Scratch

    @classmethod
    def of(cls, layer: ChainLayer, scratch: Scratch) -> Own:
        """The sums at zero."""
        width, depth = layer.cotangent.shape[1], layer.multiplier_count
        shape = width * (width + 1) // 2, depth * (depth + 1) // 2
        return cls(layer.linear, layer.cotangent.new_zeros(shape), scratch)

    @property
    def entries(self) -> int:
        """Numbers in the sums: what a row costs, in multiplications."""
        return self.total.numel()

    @property
    def sides(self) -> int:
        """Factors that a row has at once."""
        pairs, squares = self.total.shape
        return pairs + (2 * _multiplier_count(self.layer) if pairs <= FEW_PAIRS else squares)

    @property
    def parameters(self) -> list[str]:
        """Names of the layer's selected parameters."""
        return [place.name for place, _ in _sides(self.layer)]

    def add(self, layer: ChainLayer) -> None:
        """Sum up a batch."""
        width = layer.cotangent.shape[1]
        i, k = torch.triu_indices(width, width, device=layer.cotangent.device)
        curvature = layer.curvature.flatten(1).index_select(1, i * width + k)
        h = layer.multipliers
        if len(self.total) <= FEW_PAIRS:
            j, q = torch.triu_indices(len(h), len(h), device=h.device)
            for number, total in enumerate(self.total):
                scaled = torch.mul(h, curvature[:, number], out=self.scratch.of(len(h), h))
                total += (scaled @ h.T)[j, q]
            return
        squares = self.scratch.of(self.total.shape[1], h)
        for j, first in enumerate(_starts(len(h))):
            torch.mul(h[j], h[j:], out=squares[first : first + len(h) - j])
        self.total.addmm_(curvature.T, squares.T)

    def write(self, result: Tensor, scale: float) -> None:
        """Add the block, times scale, to the whole; used once."""
        self.total *= scale
        width, depth = self.layer.weight.shape[0], _multiplier_count(self.layer)
        j, q = torch.triu_indices(depth, depth, device=result.device)
        place = torch.empty(depth, depth, dtype=torch.int64, device=result.device)
        place[j, q] = place[q, j] = torch.arange(len(j), device=result.device)
        for i, first in enumerate(_starts(width)):
            block = self.total[first : first + width - i].index_select(1, place.flatten())
            block = block.view(width - i, depth, depth)  # (k ≥ i, j, q)
            for (rows, above), (columns, left) in _corners(self.layer, self.layer):
                target = _view(result, rows, columns)
                part = block[:, above, left]
                target[i, :, i:] += part.transpose(0, 1)
                target[i + 1 :, :, i] += part[1:]


@dataclass
class Cross:
    """A layer m with an earlier layer l: both terms of the formula."""

    upper: LinearLayer  # m
    lower: LinearLayer  # l
    curvature: Tensor  # first term, (out_l out_m, d_m d_l)
    bent: Tensor  # second, (out_l out_m, d_l) where J is a diagonal, else (out_m d_l, out_l in_m)
    scratch: Scratch

    @classmethod
    def of(cls, crossing: Crossing, scratch: Scratch) -> Cross:
        """The sums at zero."""
        upper, lower = crossing.upper, crossing.lower
        jacobian = crossing.jacobian
        widths = lower.cotangent.shape[1] * upper.cotangent.shape[1]
        shape = (widths, lower.multiplier_count)
        if jacobian.ndim == 3:
            shape = (upper.cotangent.shape[1] * lower.multiplier_count, jacobian[0].numel())
        if upper.linear.weight_slice is None:
            shape = (0, 0)
        depths = upper.multiplier_count * lower.multiplier_count
        curvature = jacobian.new_zeros(widths, depths)
        return cls(upper.linear, lower.linear, curvature, jacobian.new_zeros(shape), scratch)

    @property
    def entries(self) -> int:
        """Numbers in the sums: what a row costs, in multiplications."""
        return self.curvature.numel() + self.bent.numel()

    @property
    def sides(self) -> int:
        """Factors that a row has at once."""
        return max(sum(self.curvature.shape), sum(self.bent.shape))

    def add(self, crossing: Crossing) -> None:
        """Sum up a batch."""
        h, below = crossing.upper.multipliers, crossing.lower.multipliers
        pairs = self.scratch.outer(h, below)
        self.curvature.addmm_(crossing.curvature.flatten(1).T, pairs.T)
        if self.upper.weight_slice is None:
            return
        jacobian, cotangent = crossing.jacobian, crossing.upper.cotangent
        if jacobian.ndim == 2:
            pulled = (jacobian.unsqueeze(2) * cotangent.unsqueeze(1)).flatten(1)
            self.bent.addmm_(pulled.T, below.T)
        else:
            self.bent.addmm_(self.scratch.outer(cotangent.T, below), jacobian.flatten(1))

    def write(self, result: Tensor, scale: float) -> None:
        """Add the block and its transpose, times scale, to the whole; used once."""
        self.curvature *= scale
        self.bent *= scale
        block = self._together()
        for (rows, above), (columns, left) in _corners(self.upper, self.lower):
            part = block[:, :, above, left]  # (k, i, j, q)
            _view(result, rows, columns).add_(part.permute(1, 2, 0, 3))
            _view(result, columns, rows).add_(part.permute(0, 3, 1, 2))

    def _together(self) -> Tensor:
        above, below = self.upper.weight.shape[0], self.lower.weight.shape[0]
        depth = _multiplier_count(self.lower)
        block = self.curvature.view(below, above, -1, depth)
        if self.upper.weight_slice is None:
            return block
        if self.bent.shape == (below * above, depth):
            # J is a diagonal: only j = k, of the upper layer's inputs.
            block.diagonal(dim1=0, dim2=2).add_(
                self.bent.view(below, above, depth).permute(1, 2, 0)
            )
        else:
            bent = self.bent.view(above, depth, below, -1)
            block[:, :, : bent.shape[3]] += bent.permute(2, 0, 3, 1)
        return block


def _starts(count: int) -> list[int]:
    """Where the rows of an upper triangle begin, row by row."""
    return [row * count - row * (row - 1) // 2 for row in range(count)]


def _multiplier_count(layer: LinearLayer) -> int:
    """d: inputs of the layer whose weight is selected, and 1 for a selected bias."""
    inputs = 0 if layer.weight_slice is None else layer.weight.shape[1]
    return inputs + (layer.bias_slice is not None)


Side = tuple[ParameterSlice, slice]  # a parameter, and its multipliers in [a; 1]


def _sides(layer: LinearLayer) -> list[Side]:
    sides: list[Side] = []
    if layer.weight_slice is not None:
        sides.append((layer.weight_slice, slice(0, layer.weight.shape[1])))
    if layer.bias_slice is not None:
        count = _multiplier_count(layer)
        sides.append((layer.bias_slice, slice(count - 1, count)))
    return sides


def _corners(upper: LinearLayer, lower: LinearLayer) -> list[tuple[Side, Side]]:
    return [(rows, columns) for rows in _sides(upper) for columns in _sides(lower)]


def _view(result: Tensor, rows: ParameterSlice, columns: ParameterSlice) -> Tensor:
    """The block of two parameters as (out, inputs, out, inputs)."""
    block = result[rows.offset : rows.offset + rows.size]
    block = block[:, columns.offset : columns.offset + columns.size]
    return block.view(rows.shape[0], -1, columns.shape[0], columns.size // columns.shape[0])
