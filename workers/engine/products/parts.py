"""What a written-out product is made of: nodes of the model's graph, on one batch, with four rules.

With R the derivative along the vectors v: R of a node's output from R of its inputs, the error
signal δ of its inputs from that of its output, and R of the same with what v's own share H v gets.
A row of the data and a vector are the first two axes of every R: (B, k, ...).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor
from torch.func import jvp, vjp, vmap

from workers.engine.problem import ParameterSlice

Entering = Sequence[Tensor | None]  # R of each input, None where it is zero


class Part(Protocol):
    """A node on one batch; `sources` are the nodes it takes, `target` the node it is."""

    target: str
    sources: tuple[str, ...]
    delta: Tensor | None

    def forward(self, entering: Entering, vectors: Tensor) -> Tensor | None:
        """R of the output, None where it is zero."""
        ...

    def backward(self, delta: Tensor) -> Sequence[Tensor]:
        """The error signal of each source, from that of the output."""
        ...

    def r_backward(
        self, entering: Entering, signal: Tensor, vectors: Tensor, result: Tensor, wanted: bool
    ) -> Sequence[Tensor | None]:
        """R of the error signal of each source if `wanted`; adds the node's share to result."""
        ...


@dataclass
class Elementwise:
    """σ, each entry for itself."""

    target: str
    sources: tuple[str, ...]
    first: Tensor  # σ′(z), (B, ...)
    second: Tensor | None  # σ″(z), None where it is zero everywhere
    delta: Tensor | None = None  # ∂ΣL/∂σ(z), (B, ...)
    bend: Tensor | None = None  # δ σ″

    def forward(self, entering: Entering, vectors: Tensor) -> Tensor | None:
        """See `Part`."""
        return None if entering[0] is None else entering[0] * self.first.unsqueeze(1)

    def backward(self, delta: Tensor) -> Sequence[Tensor]:
        """See `Part`."""
        if self.second is not None:
            self.bend = (delta * self.second).unsqueeze(1)
        return [delta * self.first]

    def r_backward(
        self, entering: Entering, signal: Tensor, vectors: Tensor, result: Tensor, wanted: bool
    ) -> Sequence[Tensor | None]:
        """See `Part`."""
        if not wanted:
            return [None]
        through = signal * self.first.unsqueeze(1)
        if self.bend is not None and entering[0] is not None:
            through.addcmul_(entering[0], self.bend)
        return [through]


@dataclass
class Sum:
    """Addition or subtraction of two nodes."""

    target: str
    sources: tuple[str, ...]
    shapes: tuple[torch.Size, ...]  # of a row
    sign: float
    output: torch.Size
    delta: Tensor | None = None

    def forward(self, entering: Entering, vectors: Tensor) -> Tensor | None:
        """See `Part`."""
        total: Tensor | None = None
        for place, tangent in enumerate(entering):
            if tangent is None:
                continue
            tangent = tangent if place == 0 else self.sign * tangent
            total = tangent if total is None else total + tangent
        return None if total is None else total.expand(*total.shape[:2], *self.output)

    def backward(self, delta: Tensor) -> Sequence[Tensor]:
        """See `Part`."""
        return self._shared(delta, 1)

    def r_backward(
        self, entering: Entering, signal: Tensor, vectors: Tensor, result: Tensor, wanted: bool
    ) -> Sequence[Tensor | None]:
        """See `Part`."""
        return self._shared(signal, 2)

    def _shared(self, signal: Tensor, leading: int) -> list[Tensor]:
        scales = (1.0, self.sign)
        return [
            summed_to(signal if scale == 1.0 else scale * signal, leading, shape)
            for shape, scale in zip(self.shapes, scales, strict=False)
        ]


@dataclass
class Linear:
    """Any function of one node that is linear in it and has no parameters: a view, a mean."""

    target: str
    sources: tuple[str, ...]
    function: Callable[[Tensor], Tensor]
    pull: Callable[[Tensor], tuple[Tensor, ...]]
    delta: Tensor | None = None

    def forward(self, entering: Entering, vectors: Tensor) -> Tensor | None:
        """See `Part`."""
        if entering[0] is None:
            return None
        result: Tensor = vmap(self.function, in_dims=1, out_dims=1)(entering[0])
        return result

    def backward(self, delta: Tensor) -> Sequence[Tensor]:
        """See `Part`."""
        return self.pull(delta)

    def r_backward(
        self, entering: Entering, signal: Tensor, vectors: Tensor, result: Tensor, wanted: bool
    ) -> Sequence[Tensor | None]:
        """See `Part`."""
        return vmap(self.pull, in_dims=1, out_dims=1)(signal) if wanted else [None]


@dataclass
class Rearranged:
    """A row's entries in another shape, or some of them: what maxima over windows pick."""

    target: str
    sources: tuple[str, ...]
    before: torch.Size  # of the source, (B, ...)
    after: torch.Size
    picked: Tensor | None = None  # (B, C, windows), each window's place among a channel's entries
    delta: Tensor | None = None

    def forward(self, entering: Entering, vectors: Tensor) -> Tensor | None:
        """See `Part`."""
        tangent = entering[0]
        if tangent is None:
            return None
        if self.picked is not None:
            places = self.picked.unsqueeze(1).expand(-1, tangent.shape[1], -1, -1)
            tangent = tangent.flatten(3).gather(3, places)
        return tangent.reshape(*tangent.shape[:2], *self.after[1:])

    def backward(self, delta: Tensor) -> Sequence[Tensor]:
        """See `Part`."""
        return [self._back(delta.unsqueeze(1)).squeeze(1)]

    def r_backward(
        self, entering: Entering, signal: Tensor, vectors: Tensor, result: Tensor, wanted: bool
    ) -> Sequence[Tensor | None]:
        """See `Part`."""
        return [self._back(signal) if wanted else None]

    def _back(self, signal: Tensor) -> Tensor:
        rows, count = signal.shape[:2]
        if self.picked is not None:
            places = self.picked.unsqueeze(1).expand(-1, count, -1, -1)
            entries = self.before[2:].numel()
            empty = signal.new_zeros(rows, count, self.before[1], entries)
            signal = empty.scatter_add_(3, places, signal.flatten(3))
        return signal.reshape(rows, count, *self.before[1:])


@dataclass
class Smooth:
    """Any function of nodes without parameters: torch's forward over reverse, of this node alone."""

    target: str
    sources: tuple[str, ...]
    function: Callable[..., Tensor]
    values: tuple[Tensor, ...]
    delta: Tensor | None = field(default=None)

    def forward(self, entering: Entering, vectors: Tensor) -> Tensor | None:
        """See `Part`."""
        if all(each is None for each in entering):
            return None

        def along(*tangents: Tensor) -> Tensor:
            moved: Tensor = jvp(self.function, self.values, tangents)[1]
            return moved

        result: Tensor = vmap(along, in_dims=1, out_dims=1)(*self._filled(entering, len(vectors)))
        return result

    def backward(self, delta: Tensor) -> Sequence[Tensor]:
        """See `Part`."""
        pulled: tuple[Tensor, ...] = vjp(self.function, *self.values)[1](delta)
        return pulled

    def r_backward(
        self, entering: Entering, signal: Tensor, vectors: Tensor, result: Tensor, wanted: bool
    ) -> Sequence[Tensor | None]:
        """See `Part`."""
        if not wanted:
            return [None] * len(self.sources)

        def pulled(*given: Tensor) -> tuple[Tensor, ...]:
            signals: tuple[Tensor, ...] = vjp(self.function, *given[:-1])[1](given[-1])
            return signals

        def along(*tangents: Tensor) -> tuple[Tensor, ...]:
            moved: tuple[Tensor, ...] = jvp(pulled, (*self.values, self.delta), tangents)[1]
            return moved

        tangents = (*self._filled(entering, len(vectors)), signal)
        results: tuple[Tensor, ...] = vmap(along, in_dims=1, out_dims=1)(*tangents)
        return results

    def _filled(self, entering: Entering, count: int) -> list[Tensor]:
        return [
            value.new_zeros(len(value), count, *value.shape[1:]) if each is None else each
            for value, each in zip(self.values, entering, strict=True)
        ]


def summed_to(value: Tensor, leading: int, shape: Sequence[int]) -> Tensor:
    """The sum over the axes after the first `leading` along which `shape` was broadcast."""
    extra = value.ndim - leading - len(shape)
    if extra:
        value = value.sum(tuple(range(leading, leading + extra)))
    wide = [
        leading + place
        for place, size in enumerate(shape)
        if size == 1 and value.shape[leading + place] != 1
    ]
    return value.sum(wide, keepdim=True) if wide else value


def part_of(vectors: Tensor, place: ParameterSlice) -> Tensor:
    """The vectors' entries for this parameter, (k, size): a view."""
    return vectors[:, place.offset : place.offset + place.size]
