"""Parts that have parameters: linear layers, convolutions, scales and shifts.

All vectors go through one matrix product or one convolution a term: rows and vectors together are
its long side, and v's own term is a layer with k times as many outputs. A convolution vectorised
by torch.func becomes a grouped one instead, several times slower.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from workers.engine.problem import ParameterSlice
from workers.engine.products.parts import Entering, part_of


@dataclass
class LinearLayer:
    """z = a Wᵀ + b over the last axis."""

    target: str
    sources: tuple[str, ...]
    weight: Tensor  # (out, in)
    weight_slice: ParameterSlice | None  # None: frozen
    bias_slice: ParameterSlice | None
    inputs: Tensor  # a, (B, ..., in)
    delta: Tensor | None = None  # ∂ΣL/∂z, (B, ..., out)

    def forward(self, entering: Entering, vectors: Tensor) -> Tensor | None:
        """See `Part`."""
        tangent, count = entering[0], len(vectors)
        result = None if tangent is None else tangent @ self.weight.T
        if self.weight_slice is not None:
            moved = part_of(vectors, self.weight_slice).reshape(-1, self.weight.shape[1])
            own = self._apart(self.inputs @ moved.T, count)
            result = own if result is None else result.add_(own)
        if self.bias_slice is not None:
            middle = (1,) * (self.inputs.ndim - 2)
            shift = part_of(vectors, self.bias_slice).view(count, *middle, -1)
            if result is None:
                shape = (len(self.inputs), count, *self.inputs.shape[1:-1], shift.shape[-1])
                return shift.expand(shape)
            result.add_(shift)
        return result

    def backward(self, delta: Tensor) -> Sequence[Tensor]:
        """See `Part`."""
        return [delta @ self.weight]

    def r_backward(
        self, entering: Entering, signal: Tensor, vectors: Tensor, result: Tensor, wanted: bool
    ) -> Sequence[Tensor | None]:
        """See `Part`."""
        self._share(entering[0], signal, result)
        if not wanted:
            return [None]
        through = signal @ self.weight
        if self.weight_slice is not None:
            assert self.delta is not None
            count, width = len(vectors), self.weight.shape[0]
            moved = part_of(vectors, self.weight_slice).view(count, width, -1).transpose(0, 1)
            through.add_(self._apart(self.delta @ moved.reshape(width, -1), count))
        return [through]

    def _share(self, tangent: Tensor | None, signal: Tensor, result: Tensor) -> None:
        count, width = signal.shape[1], signal.shape[-1]
        if self.bias_slice is not None:
            over = (0, *range(2, signal.ndim - 1))
            part_of(result, self.bias_slice).add_(signal.sum(over))
        if self.weight_slice is None:
            return
        assert self.delta is not None
        inputs, delta = self.inputs.flatten(0, -2), self.delta.flatten(0, -2)
        share = (self._together(signal).T @ inputs).view(count, -1)
        part_of(result, self.weight_slice).add_(share)
        if tangent is not None:
            crossed = (delta.T @ self._together(tangent)).view(width, count, -1)
            place = part_of(result, self.weight_slice).view(count, width, -1)
            place.add_(crossed.transpose(0, 1))

    @staticmethod
    def _apart(value: Tensor, count: int) -> Tensor:
        """(B, ..., k · width) to (B, k, ..., width)."""
        return value.unflatten(-1, (count, -1)).movedim(-2, 1)

    @staticmethod
    def _together(value: Tensor) -> Tensor:
        """(B, k, ..., width) to (B · ..., k · width)."""
        return value.movedim(1, -2).flatten(-2).flatten(0, -2)


@dataclass
class Convolution:
    """A convolution without groups, of any number of axes."""

    target: str
    sources: tuple[str, ...]
    weight: Tensor  # (out, in, *kernel)
    weight_slice: ParameterSlice | None
    bias_slice: ParameterSlice | None
    inputs: Tensor  # a, (B, in, *space)
    stride: list[int]
    padding: list[int]
    dilation: list[int]
    space: torch.Size  # of the output
    delta: Tensor | None = None  # (B, out, *space)

    def forward(self, entering: Entering, vectors: Tensor) -> Tensor | None:
        """See `Part`."""
        tangent, rows, count = entering[0], len(self.inputs), len(vectors)
        result = None
        if tangent is not None:
            result = self._convolved(tangent.flatten(0, 1), self.weight)
            result = result.unflatten(0, (rows, count))
        if self.weight_slice is not None:
            moved = part_of(vectors, self.weight_slice).reshape(-1, *self.weight.shape[1:])
            own = self._convolved(self.inputs, moved).unflatten(1, (count, -1))
            result = own if result is None else result.add_(own)
        if self.bias_slice is not None:
            shift = part_of(vectors, self.bias_slice)
            shift = shift.view(*shift.shape, *(1,) * len(self.stride))
            if result is None:
                return shift.expand(rows, *shift.shape[:2], *self.space)
            result.add_(shift)
        return result

    def backward(self, delta: Tensor) -> Sequence[Tensor]:
        """See `Part`."""
        return [self._transposed(delta, self.weight)]

    def r_backward(
        self, entering: Entering, signal: Tensor, vectors: Tensor, result: Tensor, wanted: bool
    ) -> Sequence[Tensor | None]:
        """See `Part`."""
        rows, count = signal.shape[:2]
        self._share(entering[0], signal, result)
        if not wanted:
            return [None]
        through = self._transposed(signal.flatten(0, 1), self.weight).unflatten(0, (rows, count))
        if self.weight_slice is not None:
            assert self.delta is not None
            moved = part_of(vectors, self.weight_slice).view(count, *self.weight.shape)
            moved = moved.transpose(0, 1).flatten(1, 2)  # (out, k · in, *kernel)
            through.add_(self._transposed(self.delta, moved).unflatten(1, (count, -1)))
        return [through]

    def _share(self, tangent: Tensor | None, signal: Tensor, result: Tensor) -> None:
        count = signal.shape[1]
        if self.bias_slice is not None:
            over = (0, *range(3, signal.ndim))
            part_of(result, self.bias_slice).add_(signal.sum(over))
        if self.weight_slice is None:
            return
        assert self.delta is not None
        share = self._correlated(self.inputs, signal.flatten(1, 2))
        part_of(result, self.weight_slice).add_(share.view(count, -1))
        if tangent is not None:
            crossed = self._correlated(tangent.flatten(1, 2), self.delta)
            crossed = crossed.unflatten(1, (count, -1)).transpose(0, 1).flatten(1)
            part_of(result, self.weight_slice).add_(crossed)

    def _convolved(self, value: Tensor, weight: Tensor) -> Tensor:
        none = [0] * len(self.stride)
        return torch.ops.aten.convolution(
            value, weight, None, self.stride, self.padding, self.dilation, False, none, 1
        )

    def _transposed(self, signal: Tensor, weight: Tensor) -> Tensor:
        """From the outputs' side (N, out, ...) to the inputs' (N, in, ...)."""
        shape = (len(signal), weight.shape[1], *self.inputs.shape[2:])
        return self._pulled(signal, signal.new_empty(1).expand(shape), weight, 0)

    def _correlated(self, inputs: Tensor, signal: Tensor) -> Tensor:
        """The gradient in the weight (signal's channels, inputs' channels, *kernel)."""
        shape = (signal.shape[1], inputs.shape[1], *self.weight.shape[2:])
        return self._pulled(signal, inputs, signal.new_empty(1).expand(shape), 1)

    def _pulled(self, signal: Tensor, inputs: Tensor, weight: Tensor, which: int) -> Tensor:
        none = [0] * len(self.stride)
        given = (self.stride, self.padding, self.dilation, False, none, 1)
        mask = [which == 0, which == 1, False]
        found = torch.ops.aten.convolution_backward(signal, inputs, weight, None, *given, mask)
        return found[which]


@dataclass
class Scale:
    """z = â γ + β, γ and β of the last axes' shape; a shift alone where γ is None."""

    target: str
    sources: tuple[str, ...]
    weight: Tensor | None
    weight_slice: ParameterSlice | None
    bias_slice: ParameterSlice | None
    shape: tuple[int, ...]  # of γ and β, to broadcast against a row
    inputs: Tensor  # â, (B, ...)
    delta: Tensor | None = None

    def forward(self, entering: Entering, vectors: Tensor) -> Tensor | None:
        """See `Part`."""
        result = entering[0] if entering else None
        if result is not None and self.weight is not None:
            result = result * self.weight.view(self.shape)
        if self.weight_slice is not None:
            own = self.inputs.unsqueeze(1) * self._of(vectors, self.weight_slice)
            result = own if result is None else result + own
        if self.bias_slice is not None:
            shift = self._of(vectors, self.bias_slice)
            result = shift if result is None else result + shift
        if result is None:
            return None
        return result.expand(len(self.inputs), len(vectors), *self.inputs.shape[1:])

    def backward(self, delta: Tensor) -> Sequence[Tensor]:
        """See `Part`."""
        return [delta if self.weight is None else delta * self.weight.view(self.shape)]

    def r_backward(
        self, entering: Entering, signal: Tensor, vectors: Tensor, result: Tensor, wanted: bool
    ) -> Sequence[Tensor | None]:
        """See `Part`."""
        assert self.delta is not None
        tangent = entering[0] if entering else None
        if self.weight_slice is not None:
            share = signal * self.inputs.unsqueeze(1)
            if tangent is not None:
                share.addcmul_(tangent, self.delta.unsqueeze(1))
            self._add(result, self.weight_slice, share)
        if self.bias_slice is not None:
            self._add(result, self.bias_slice, signal)
        through = signal if self.weight is None else signal * self.weight.view(self.shape)
        if wanted and self.weight_slice is not None:
            through.addcmul_(self.delta.unsqueeze(1), self._of(vectors, self.weight_slice))
        return [through]

    def _of(self, vectors: Tensor, place: ParameterSlice) -> Tensor:
        return part_of(vectors, place).view(1, len(vectors), *self._padded())

    def _padded(self) -> tuple[int, ...]:
        return (1,) * (self.inputs.ndim - 1 - len(self.shape)) + self.shape

    def _add(self, result: Tensor, place: ParameterSlice, share: Tensor) -> None:
        wide = [2 + i for i, size in enumerate(self._padded()) if size == 1]
        part_of(result, place).add_(share.sum([0, *wide]).reshape(share.shape[1], -1))
