"""Random projections of rows' gradients, whitened by the curvature in their space: an index that is built fast.

With P the projection of a layer and C̃ = Pᵀ C P, a row has the numbers W Pᵀ g, where Wᵀ W = (C̃ + λI)⁻¹ by the
eigenvectors of C̃: products of two rows' numbers are influences in the projected space. C is what candidates are scored
by: with the second moment of projected gradients in its place, a whole block that few rows say little of, half as many
of the strongest rows are found.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any, Self

import torch
from torch import Tensor

from workers.engine.autodiff.layer_uses import bytes_of_row
from workers.engine.curvature.structured.blocks import Block, Spectral
from workers.engine.curvature.structured.layout import BlockLayout, Layout
from workers.engine.curvature.structured.sums import Collector
from workers.engine.errors import BadParameter, OutOfMemory
from workers.engine.inversion.indefinite import require_regular
from workers.engine.model.batching import (
    DEFAULT_BUDGET,
    BatchSize,
    RowBlock,
    activation_bytes,
    rows_at_once,
)
from workers.engine.model.problem import Problem
from workers.engine.model.rows import Batch, Rows
from workers.engine.model.second_order import once_differentiable
from workers.engine.progress import Progress
from workers.engine.projection.layers import ProjectedLayer, Projection
from workers.engine.scores.contraction import GRADIENT_COPIES, over_columns
from workers.engine.scores.embedding import Embedding, mean_squares, strongest

NUMBER_COPIES = 3  # of a row's numbers: before and after they are whitened, and one side of a layer


@dataclass(frozen=True)
class RandomEmbedding(Embedding):
    """W Pᵀ of gradients. `whitening` are Wᵀ, (k, k) of each layer with k numbers; `values` (width,) mean squares."""

    projection: Projection
    whitening: tuple[Tensor, ...]
    values: Tensor

    @classmethod
    def of(
        cls, projection: Projection, form: Spectral, *, budget_bytes: int = DEFAULT_BUDGET
    ) -> Self:
        """Of a curvature in closed form, with its λ's. Raises OutOfMemory, SingularHessian."""
        if not form.dampings:
            raise BadParameter("hessian_regularization", None, "give a λ first")
        _require_memory(projection, form.dtype, budget_bytes)
        whitening, values = [], []
        for layer in projection.layers:
            block, damping = _block_of(layer.layout, form)
            found, vectors = torch.linalg.eigh(projected(block, layer))
            found = found.clamp(min=0.0)
            require_regular(found, damping, form.dtype)
            whitening.append((vectors * (found + damping).rsqrt()).to(form.dtype).contiguous())
            values.append(found / (found + damping))
        return cls(projection, tuple(whitening), torch.cat(values).float().cpu())

    def measured(self, rows: Iterator[Tensor]) -> RandomEmbedding:
        """With the mean squares of some rows' numbers, (b, width) at a time, and of what C̃ says."""
        values = mean_squares(self.values.double(), rows).float()
        return RandomEmbedding(self.projection, self.whitening, values)

    @property
    def width(self) -> int:
        """Numbers of a row, in all."""
        return self.projection.width

    @property
    def nbytes(self) -> int:
        """Of the projection's matrices and of what whitens."""
        return sum(each.nbytes for each in self.tensors().values())

    @property
    def described(self) -> dict[str, Any]:
        """For people: how many numbers of each layer there are, and what they are projections of."""
        return {"layers": [_described(each) for each in self.projection.layers]}

    def leading(self, count: int) -> Tensor:
        """(count,) places among the numbers of those that add most to the variance of the scores, ascending."""
        return strongest(self.values, count)

    def __call__(self, gradients: Tensor) -> Tensor:
        """(k, p) -> (k, width)."""
        return self._whitened(self.projection.of_gradients(gradients))

    def of_rows(
        self,
        problem: Problem,
        rows: Rows,
        *,
        batch_size: BatchSize = "auto",
        budget_bytes: int = DEFAULT_BUDGET,
        progress: Progress | None = None,
    ) -> Iterator[tuple[slice, Tensor]]:
        """Without whole gradients: yields (slice of rows, (b, width)). Raises NotFinite."""
        collector = Collector(problem, _layout(self.projection, problem), "gradients")

        def work(batch: Batch) -> Tensor:
            with once_differentiable():
                (column,) = collector.columns_of(problem.placed(batch))
                return self._whitened(self.projection.of_column(column))

        size = _rows_at_once(self.projection, problem, rows, batch_size, budget_bytes)
        yield from over_columns(problem, rows, RowBlock(size), work, "index", progress)

    def _whitened(self, numbers: Sequence[Tensor]) -> Tensor:
        first = numbers[0]
        result = torch.empty(len(first), self.width, dtype=first.dtype, device=first.device)
        start = 0
        for own, whitening in zip(numbers, self.whitening, strict=True):
            torch.mm(own, whitening, out=result[:, start : start + own.shape[1]])
            start += own.shape[1]
        return result

    def tensors(self) -> dict[str, Tensor]:
        """For storing; `from_tensors` takes them back."""
        document = {
            "layers": [
                {"layout": each.layout.to_json(), "formed": each.formed}
                for each in self.projection.layers
            ],
            "explained": sorted(self.projection.explained),
        }
        note = torch.frombuffer(bytearray(json.dumps(document).encode()), dtype=torch.uint8)
        found = {"layout": note.clone(), "values": self.values, **self.projection.tensors()}
        return found | {f"{at}.whitening": each for at, each in enumerate(self.whitening)}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Self:
        """The inverse of `tensors`."""
        document = json.loads(bytes(tensors["layout"].cpu().tolist()).decode())
        layers = tuple(
            ProjectedLayer(BlockLayout.from_json(each["layout"]), each["formed"], None, None)
            for each in document["layers"]
        )
        projection = Projection(layers, frozenset(document["explained"])).with_tensors(tensors)
        whitening = tuple(tensors[f"{at}.whitening"] for at in range(len(layers)))
        return cls(projection, whitening, tensors["values"].cpu())


def _layout(projection: Projection, problem: Problem) -> Layout:
    blocks = tuple(each.layout for each in projection.layers)
    return Layout(blocks, projection.explained, {each.name: each for each in problem.layout})


def projected(block: Block, layer: ProjectedLayer) -> Tensor:
    """C̃ = Pᵀ C P of a layer that is the block or a part of it, (k, k) in float64: exact, without a pass over rows."""
    layout = block.layout
    if layout.form == "kronecker":
        if layout.names != layer.layout.names:
            raise BadParameter(
                "projection", "random", f"layer {layer.layout.layer} has another layout by now"
            )
        return _of_kronecker(block, layer)
    starts = dict(zip(layout.names, accumulate(layout.sizes, initial=0), strict=False))
    offsets = tuple(starts[name] for name in layer.layout.names)
    local = replace(layer, layout=replace(layer.layout, offsets=offsets))  # in the block's order
    if block.left is None:
        values = local.layout.gathered(block.values[None])[0].flatten(0, 1)
        return _between(values.double(), *local.matrices(values.device))
    found = local.in_double().of_gradients(
        block.left.double().mT
    )  # (size, k), an eigenvector a row
    return _symmetric((found.mT * block.values) @ found)


def _of_kronecker(block: Block, layer: ProjectedLayer) -> Tensor:
    """Pᵀ Q Λ Qᵀ P of Kronecker products, group by group."""
    left, right = layer.matrices(block.values.device)
    total = torch.zeros((layer.numbers,) * 2, dtype=torch.float64, device=block.values.device)
    for group, own in enumerate(left.split(block.layout.rows)):
        rows = own if block.left is None else block.left[group].double().mT @ own
        columns = right if block.order is None else right[block.order]
        if block.right is not None:
            count = block.turned_columns
            turned = block.right[group].double().mT @ columns[:count]
            columns = torch.cat([turned, columns[count:]])
        total += _between(block.values[group], rows, columns)
    return total


def _between(values: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """(L ⊗ R)ᵀ diag(Λ) (L ⊗ R) of Λ (r, c), L (r, k) and R (c, l): (k l, k l), pair by pair of the narrower side."""
    outer, inner = left.shape[1], right.shape[1]
    if outer > inner:
        turned = _between(values.mT, right, left).view(inner, outer, inner, outer)
        return turned.permute(1, 0, 3, 2).reshape(outer * inner, -1)
    found = values.new_empty(outer, inner, outer, inner)
    for first in range(outer):
        weights = (left[:, first, None] * left[:, first:]).mT @ values  # (k - first, c)
        blocks = (right.mT * weights.unsqueeze(1)) @ right  # (k - first, l, l), each symmetric
        found[first, :, first:] = blocks.movedim(0, 1)
        found[first:, :, first] = blocks
    return _symmetric(found.reshape(outer * inner, -1))


def _symmetric(square: Tensor) -> Tensor:
    return (square + square.mT) / 2


def _rows_at_once(
    projection: Projection, problem: Problem, rows: Rows, batch_size: BatchSize, budget: int
) -> int:
    numbers = NUMBER_COPIES * projection.width + GRADIENT_COPIES * projection.formed
    row_bytes = bytes_of_row(problem, rows, projection.explained)
    row_bytes += numbers * problem.dtype.itemsize
    if any(
        name not in projection.explained for each in projection.layers for name in each.layout.names
    ):
        row_bytes += activation_bytes(problem, rows)
    return rows_at_once(batch_size, len(rows), row_bytes, budget, problem.device.type)


def _require_memory(projection: Projection, dtype: torch.dtype, budget: int) -> None:
    """Raises OutOfMemory, in bytes: matrices, whitening, sums in float64, and one layer's eigenvectors."""
    numbers = [each.numbers for each in projection.layers]
    held = sum(each.nbytes for each in projection.tensors().values())
    held += (dtype.itemsize + 8) * sum(each**2 for each in numbers)
    needed = held + 4 * 8 * max(numbers) ** 2
    if needed > budget:
        raise OutOfMemory(
            f"a projected curvature of {needed:,} bytes, where {budget:,} may be used",
            "give a smaller dimension, or select fewer parameters",
        )


def _block_of(layout: BlockLayout, form: Spectral) -> tuple[Block, float]:
    """That has this parameter, and its λ."""
    for block, damping in zip(form.blocks, form.dampings, strict=True):
        if layout.offsets[0] in block.layout.offsets:
            return block, damping
    raise BadParameter("projection", "random", f"no curvature is known of layer {layout.layer}")


def _described(layer: ProjectedLayer) -> dict[str, Any]:
    layout = layer.layout
    found: dict[str, Any] = {
        "layer": layout.layer,
        "parameters": layout.size,
        "numbers": layer.numbers,
        "sides": list(layer.sides),
    }
    return found | ({"gradient_formed": layout.why} if layer.formed else {})
