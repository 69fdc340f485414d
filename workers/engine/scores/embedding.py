"""Gradients as few numbers whose products approximate influences: what an index of training rows is made of.

With C = Q Λ Qᵀ block by block, gᵀ (C + λI)⁻¹ h = r(g) · r(h) for r(g) = (Λ + λ)^(-1/2) Qᵀ g. The inverse is split
evenly: a row, and whoever asks, have the same numbers. Their squares have the mean Λᵢ / (Λᵢ + λ) ≤ 1 over the rows of
C, so that half precision holds them. A number adds (Λᵢ / (Λᵢ + λ))² to the variance of the scores, so those of the
largest Λᵢ of each block are kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from workers.engine.curvature.structured.blocks import AT_ONCE, Block, Spectral
from workers.engine.errors import BadParameter
from workers.engine.model.batching import DEFAULT_BUDGET, BatchSize
from workers.engine.model.problem import Problem
from workers.engine.model.rows import Rows
from workers.engine.progress import Progress
from workers.engine.scores.contraction import over_gradients


@dataclass(frozen=True)
class Embedding:
    """r, cut to some numbers of each block. `kept` (d,) are places among the block's, None for all in their order."""

    blocks: tuple[Block, ...]
    scales: tuple[Tensor, ...]  # (d,) each, (Λ + λ)^(-1/2)
    kept: tuple[Tensor | None, ...]

    @classmethod
    def of(cls, form: Spectral, dimension: int) -> Embedding:
        """Up to `dimension` numbers of each block of a C with a λ. Raises BadParameter where no λ is given yet."""
        if not form.dampings:
            raise BadParameter("hessian_regularization", None, "give a λ first")
        scales: list[Tensor] = []
        kept: list[Tensor | None] = []
        for block, damping in zip(form.blocks, form.dampings, strict=True):
            values = block.values.flatten()
            scale = (values + damping).rsqrt().to(form.dtype)
            if dimension >= len(values):
                scales.append(scale)
                kept.append(None)
                continue
            places = values.sort(descending=True, stable=True).indices[:dimension].sort().values
            scales.append(scale[places])
            kept.append(places)
        return cls(form.blocks, tuple(scales), tuple(kept))

    @property
    def width(self) -> int:
        """Numbers of a row, in all."""
        return sum(len(each) for each in self.scales)

    def leading(self, count: int) -> Tensor:
        """(count,) places of the numbers that add most to the variance of the scores, ascending."""
        shares = torch.cat(
            [
                block.values.flatten()[slice(None) if kept is None else kept] * scale.double() ** 2
                for block, scale, kept in zip(self.blocks, self.scales, self.kept, strict=True)
            ]
        )
        return shares.sort(descending=True, stable=True).indices[:count].sort().values.cpu()

    @property
    def layers(self) -> list[dict[str, Any]]:
        """For people: how many numbers of each layer are kept, and of how many."""
        return [
            {
                "layer": block.layout.layer,
                "parameters": block.layout.size,
                "numbers": len(scale),
            }
            for block, scale in zip(self.blocks, self.scales, strict=True)
        ]

    def __call__(self, gradients: Tensor) -> Tensor:
        """(k, p) -> (k, width)."""
        result = torch.empty(
            (len(gradients), self.width), dtype=gradients.dtype, device=gradients.device
        )
        first = 0
        for block, scale, kept in zip(self.blocks, self.scales, self.kept, strict=True):
            into = result[:, first : first + len(scale)]
            first += len(scale)
            step = max(1, AT_ONCE // max(1, block.layout.size))
            for start in range(0, len(gradients), step):
                rotated = block.rotated(gradients[start : start + step]).flatten(1)
                into[start : start + step] = (
                    rotated if kept is None else rotated.index_select(1, kept)
                ) * scale
        return result


def embedded(
    problem: Problem,
    embedding: Embedding,
    rows: Rows,
    *,
    batch_size: BatchSize = "auto",
    budget_bytes: int = DEFAULT_BUDGET,
    progress: Progress | None = None,
) -> Iterator[tuple[slice, Tensor]]:
    """The numbers of each row's gradient: yields (slice of rows, (b, width)). Raises NotFinite."""
    yield from over_gradients(
        problem,
        rows,
        embedding,
        "index",
        batch_size,
        budget_bytes,
        progress,
        result_width=problem.size + embedding.width,
    )


def halved(numbers: Tensor) -> tuple[Tensor, Tensor]:
    """(k, width) as float16 of at most 1, and the factor (k,) of each row, float32."""
    largest = numbers.abs().amax(1) if numbers.shape[1] else numbers.new_ones(len(numbers))
    factors = torch.where(largest > 0, largest, torch.ones_like(largest))
    return (numbers / factors[:, None]).to(torch.float16), factors.to(torch.float32)
