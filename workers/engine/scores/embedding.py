"""Gradients as few numbers whose products approximate influences: what an index of training rows is made of.

With C = Q Λ Qᵀ block by block, gᵀ (C + λI)⁻¹ h = r(g) · r(h) for r(g) = (Λ + λ)^(-1/2) Qᵀ g. The inverse is split
evenly: a row, and whoever asks, have the same numbers. Their squares have the mean Λᵢ / (Λᵢ + λ) ≤ 1 over the rows of
C, so that half precision holds them. A number adds the square of its mean square to the variance of the scores, so
those of the largest are kept, wherever they are: by Λ alone they would be much alike where λ is small, and
the gradients of the labels that the rows have differ from those that C is made of.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
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

Embedded = Callable[["SpectralEmbedding"], Iterator[Tensor]]
SAMPLED = 256  # rows by whose gradients numbers are chosen
# So many rows' worth of what Λ says is added: few rows say little of a number, and some have no gradient at all there.
PRIOR_ROWS = 4


@dataclass(frozen=True)
class Strengths:
    """Which numbers are kept: `places` (d,) int64 among those of all blocks one after another, ascending.

    `values` (d,) float32: their mean squares over rows.
    """

    places: Tensor
    values: Tensor

    @classmethod
    def of(cls, form: Spectral, dimension: int, rows: Embedded | None) -> Strengths:
        """Of `dimension` numbers a block, on the whole; a block with fewer counts with what it has.

        `rows`: what gives all numbers of some rows, (b, numbers) at a time; None: Λ alone decides.
        """
        sizes = [block.values.numel() for block in form.blocks]
        count = sum(min(dimension, size) for size in sizes)
        shares = torch.cat(
            [
                (values := block.values.flatten().double()) / (values + damping)
                for block, damping in zip(form.blocks, form.dampings, strict=True)
            ]
        ).cpu()
        if count == sum(sizes) or rows is None:
            return cls._largest(shares, count)
        whole = SpectralEmbedding.of(form, cls(torch.arange(sum(sizes)), shares.float()))
        return cls._largest(mean_squares(shares, rows(whole)), count)

    @classmethod
    def by_layer(cls, form: Spectral, dimension: int) -> Strengths:
        """Those of the largest Λ in each block: of an index that has not stored which it keeps."""
        places, values, first = [], [], 0
        for block, damping in zip(form.blocks, form.dampings, strict=True):
            own = block.values.flatten().double().cpu()
            kept = own.sort(descending=True, stable=True).indices[:dimension].sort().values
            places.append(kept + first)
            values.append((own / (own + damping))[kept])
            first += len(own)
        return cls(torch.cat(places), torch.cat(values).float())

    @classmethod
    def _largest(cls, values: Tensor, count: int) -> Strengths:
        places = values.topk(count, sorted=False).indices.sort().values
        return cls(places, values[places].float())


class Embedding(ABC):
    """A map of gradients (k, p) to few numbers (k, width), whose products approximate influences."""

    @property
    @abstractmethod
    def width(self) -> int:
        """Numbers of a row, in all."""

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """Of what it holds beside the curvature that it is of."""

    @property
    @abstractmethod
    def described(self) -> dict[str, Any]:
        """For people: how many numbers of each layer there are, and of how many parameters."""

    @abstractmethod
    def leading(self, count: int) -> Tensor:
        """(count,) places among the numbers of those that add most to the variance of the scores, ascending."""

    @abstractmethod
    def __call__(self, gradients: Tensor) -> Tensor:
        """(k, p) -> (k, width)."""

    @abstractmethod
    def of_rows(
        self,
        problem: Problem,
        rows: Rows,
        *,
        batch_size: BatchSize = "auto",
        budget_bytes: int = DEFAULT_BUDGET,
        progress: Progress | None = None,
    ) -> Iterator[tuple[slice, Tensor]]:
        """The numbers of each row's gradient: yields (slice of rows, (b, width)). Raises NotFinite."""


@dataclass(frozen=True)
class SpectralEmbedding(Embedding):
    """r, cut to some numbers. `kept` (d,) are places among a block's, None for all in their order."""

    blocks: tuple[Block, ...]
    scales: tuple[Tensor, ...]  # (d,) each, (Λ + λ)^(-1/2)
    kept: tuple[Tensor | None, ...]
    strengths: Strengths

    @classmethod
    def of(cls, form: Spectral, strengths: Strengths) -> SpectralEmbedding:
        """The numbers at some places, of a C with a λ. Raises BadParameter where no λ is given yet."""
        if not form.dampings:
            raise BadParameter("hessian_regularization", None, "give a λ first")
        scales: list[Tensor] = []
        kept: list[Tensor | None] = []
        first = 0
        for block, damping in zip(form.blocks, form.dampings, strict=True):
            values = block.values.flatten()
            scale = (values + damping).rsqrt().to(form.dtype)
            bounds = torch.tensor([first, first + len(values)])
            low, high = torch.searchsorted(strengths.places, bounds).tolist()
            whole = high - low == len(values)
            own = (strengths.places[low:high] - first).to(values.device)
            kept.append(None if whole else own)
            scales.append(scale if whole else scale[own])
            first += len(values)
        return cls(form.blocks, tuple(scales), tuple(kept), strengths)

    @property
    def width(self) -> int:
        """Numbers of a row, in all."""
        return sum(len(each) for each in self.scales)

    @property
    def nbytes(self) -> int:
        """Of scales and places."""
        kept = (each for each in self.kept if each is not None)
        strengths = (self.strengths.places, self.strengths.values)
        return sum(each.nbytes for each in (*self.scales, *kept, *strengths))

    def leading(self, count: int) -> Tensor:
        """(count,) places among the numbers of those that add most to the variance of the scores, ascending."""
        return strongest(self.strengths.values, count)

    @property
    def described(self) -> dict[str, Any]:
        """For people: how many numbers of each layer are kept, and of how many."""
        layers = [
            {
                "layer": block.layout.layer,
                "parameters": block.layout.size,
                "numbers": len(scale),
            }
            for block, scale in zip(self.blocks, self.scales, strict=True)
        ]
        return {"layers": layers}

    def __call__(self, gradients: Tensor) -> Tensor:
        """(k, p) -> (k, width)."""
        result = torch.empty(
            (len(gradients), self.width), dtype=gradients.dtype, device=gradients.device
        )
        first = 0
        for block, scale, kept in zip(self.blocks, self.scales, self.kept, strict=True):
            into = result[:, first : first + len(scale)]
            first += len(scale)
            if not len(scale):
                continue
            step = max(1, AT_ONCE // max(1, block.layout.size))
            for start in range(0, len(gradients), step):
                rotated = block.rotated(gradients[start : start + step]).flatten(1)
                into[start : start + step] = (
                    rotated if kept is None else rotated.index_select(1, kept)
                ) * scale
        return result

    def of_rows(
        self,
        problem: Problem,
        rows: Rows,
        *,
        batch_size: BatchSize = "auto",
        budget_bytes: int = DEFAULT_BUDGET,
        progress: Progress | None = None,
    ) -> Iterator[tuple[slice, Tensor]]:
        """By whole gradients: yields (slice of rows, (b, width)). Raises NotFinite."""
        yield from over_gradients(
            problem,
            rows,
            self,
            "index",
            batch_size,
            budget_bytes,
            progress,
            result_width=problem.size + self.width,
        )


def mean_squares(expected: Tensor, rows: Iterator[Tensor]) -> Tensor:
    """(d,) float64 on the CPU, of rows' numbers (b, d) at a time and of what is expected (d,) before."""
    total, number = PRIOR_ROWS * expected, PRIOR_ROWS
    for block in rows:
        total += block.double().square().sum(0).cpu()
        number += len(block)
    return total / number


def strongest(values: Tensor, count: int) -> Tensor:
    """(count,) places of the largest of (d,), ascending."""
    order = values.sort(descending=True, stable=True).indices
    return order[:count].sort().values


def compressed(numbers: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """(k, width) as float16 of at most 1, or int8 of at most 127, and the factor (k,) of each row, float32.

    Each is off by at most half a unit in the last place: of float16 by 2⁻¹¹ of itself, of int8 by half the factor.
    """
    most = 127 if dtype == torch.int8 else 1
    largest = numbers.abs().amax(1) if numbers.shape[1] else numbers.new_ones(len(numbers))
    factors = torch.where(largest > 0, largest, torch.ones_like(largest)) / most
    scaled = numbers / factors[:, None]
    if dtype == torch.int8:
        scaled = scaled.round().clamp(-most, most)  # a quotient may be rounded above it
    return scaled.to(dtype), factors.to(torch.float32)
