"""Parts that bend without parameters: softmax, normalisation, products of two nodes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from workers.engine.autodiff.graph.nodes import Direction, Entering, Return, summed_to


@dataclass
class Symmetric(ABC):
    """A node of one other whose derivative is a symmetric map: the same forward and back."""

    target: str
    sources: tuple[str, ...]
    delta: Tensor | None = field(default=None, kw_only=True)

    def forward(self, entering: Entering, direction: Direction) -> Tensor | None:
        """See `Part`."""
        return None if entering[0] is None else self._pulled(entering[0])

    def backward(self, delta: Tensor) -> Sequence[Tensor]:
        """See `Part`."""
        return [self._pulled(delta)]

    @abstractmethod
    def _pulled(self, signal: Tensor) -> Tensor:
        """The map, of a signal shaped as the node, or of (k, ...) of them."""


@dataclass
class Softmax(Symmetric):
    """y = softmax of a node over one axis, R y = y (∂z − ⟨y, ∂z⟩); entries that a mask has at −∞ are
    0 in y and stay so."""

    axis: int  # from the end, so the same with the vectors' axis in front
    value: Tensor  # y

    def r_backward(self, back: Return) -> Sequence[Tensor | None]:
        """See `Part`."""
        if not back.wanted:
            return [None]
        assert self.delta is not None
        signal, leaving = back.signal, back.leaving
        if leaving is None:
            return [self._pulled(signal)]
        inner = (self.value * signal).addcmul_(leaving, self.delta).sum(self.axis, keepdim=True)
        centred = self.delta - (self.value * self.delta).sum(self.axis, keepdim=True)
        return [(signal - inner).mul_(self.value).addcmul_(leaving, centred)]

    def _pulled(self, signal: Tensor) -> Tensor:
        through = signal * self.value
        inner = through.sum(self.axis, keepdim=True)
        return through.addcmul_(self.value, inner, value=-1.0)


@dataclass
class LogSoftmax:
    """y = log softmax of a node over one axis."""

    target: str
    sources: tuple[str, ...]
    axis: int  # from the end
    chances: Tensor  # exp y
    delta: Tensor | None = None

    def forward(self, entering: Entering, direction: Direction) -> Tensor | None:
        """R y = ∂z − ⟨exp y, ∂z⟩."""
        if entering[0] is None:
            return None
        return entering[0] - (self.chances * entering[0]).sum(self.axis, keepdim=True)

    def backward(self, delta: Tensor) -> Sequence[Tensor]:
        """See `Part`."""
        return [self._pulled(delta)]

    def r_backward(self, back: Return) -> Sequence[Tensor | None]:
        """See `Part`."""
        if not back.wanted:
            return [None]
        assert self.delta is not None
        through = self._pulled(back.signal)
        if back.leaving is not None:
            total = self.chances * self.delta.sum(self.axis, keepdim=True)
            through.addcmul_(back.leaving, total, value=-1.0)
        return [through]

    def _pulled(self, signal: Tensor) -> Tensor:
        return signal - self.chances * signal.sum(self.axis, keepdim=True)


@dataclass
class Normalised(Symmetric):
    """x̂ = (x − mean) s over the last axes, with s = (variance + ε)^(−1/2):
    R x̂ = s (∂x − mean ∂x − x̂ mean(x̂ ∂x))."""

    axes: tuple[int, ...]  # from the end
    value: Tensor  # x̂
    inverse: Tensor  # s, with axes of size 1

    def r_backward(self, back: Return) -> Sequence[Tensor | None]:
        """See `Part`."""
        if not back.wanted:
            return [None]
        assert self.delta is not None
        signal, tangent, leaving = back.signal, back.entering[0], back.leaving
        if tangent is None or leaving is None:
            return [self._pulled(signal)]
        # R s = −s² mean(x̂ ∂x)
        shrinking = self._mean(self.value * tangent) * self.inverse
        inner = self._mean((self.value * signal).addcmul_(leaving, self.delta))
        through = (signal - self._mean(signal)).addcmul_(self.value, inner, value=-1.0)
        through.addcmul_(leaving, self._mean(self.value * self.delta), value=-1.0)
        through *= self.inverse
        return [through.addcmul_(self._pulled(self.delta), shrinking, value=-1.0)]

    def _pulled(self, signal: Tensor) -> Tensor:
        inner = self._mean(self.value * signal)
        through = (signal - self._mean(signal)).addcmul_(self.value, inner, value=-1.0)
        return through.mul_(self.inverse)

    def _mean(self, value: Tensor) -> Tensor:
        return value.mean(self.axes, keepdim=True)


@dataclass
class Product:
    """x y, entry by entry, of two nodes that may be broadcast against each other."""

    target: str
    sources: tuple[str, ...]
    left: Tensor
    right: Tensor
    delta: Tensor | None = None

    def forward(self, entering: Entering, direction: Direction) -> Tensor | None:
        """See `Part`."""
        first, second = (_raised(each, self._axes) for each in entering)
        result = None if first is None else first * self.right
        if second is not None:
            other = second * self.left
            result = other if result is None else result + other
        return result

    def backward(self, delta: Tensor) -> Sequence[Tensor]:
        """See `Part`."""
        return [
            summed_to(delta * self.right, 0, self.left.shape),
            summed_to(delta * self.left, 0, self.right.shape),
        ]

    def r_backward(self, back: Return) -> Sequence[Tensor | None]:
        """See `Part`."""
        if not back.wanted:
            return [None, None]
        assert self.delta is not None
        first, second = (_raised(each, self._axes) for each in back.entering)
        left, right = back.signal * self.right, back.signal * self.left
        if second is not None:
            left = left + second * self.delta
        if first is not None:
            right = right + first * self.delta
        return [summed_to(left, 1, self.left.shape), summed_to(right, 1, self.right.shape)]

    @property
    def _axes(self) -> int:
        return max(self.left.ndim, self.right.ndim)


@dataclass
class MatrixProduct:
    """x y over the last two axes, of two nodes whose other axes are the same."""

    target: str
    sources: tuple[str, ...]
    left: Tensor  # (..., a, b)
    right: Tensor  # (..., b, c)
    delta: Tensor | None = None  # (..., a, c)

    def forward(self, entering: Entering, direction: Direction) -> Tensor | None:
        """See `Part`."""
        return _both(
            None if entering[0] is None else _times(entering[0], self.right),
            None if entering[1] is None else _times(entering[1].mT, self.left.mT).mT,
        )

    def backward(self, delta: Tensor) -> Sequence[Tensor]:
        """See `Part`."""
        return [delta @ self.right.mT, self.left.mT @ delta]

    def r_backward(self, back: Return) -> Sequence[Tensor | None]:
        """See `Part`."""
        if not back.wanted:
            return [None, None]
        assert self.delta is not None
        first, second = back.entering
        left = _both(
            _times(back.signal, self.right.mT),
            None if second is None else _times(second, self.delta.mT).mT,
        )
        right = _both(
            _times(back.signal.mT, self.left).mT,
            None if first is None else _times(first.mT, self.delta),
        )
        return [left, right]


def _times(tangent: Tensor, fixed: Tensor) -> Tensor:
    """(k, ..., a, b) times (..., b, c): the vectors stand among the rows a of one product."""
    count, rows = len(tangent), tangent.shape[-2]
    flat = tangent.movedim(0, -3).reshape(-1, count * rows, tangent.shape[-1])
    found = torch.bmm(flat, fixed.reshape(-1, *fixed.shape[-2:]))
    return found.view(*fixed.shape[:-2], count, rows, -1).movedim(-3, 0)


def _both(one: Tensor | None, other: Tensor | None) -> Tensor | None:
    if one is None or other is None:
        return other if one is None else one
    return one + other


def _raised(tangent: Tensor | None, axes: int) -> Tensor | None:
    """With axes of size 1 after the vectors' one, so that it broadcasts as its value does."""
    if tangent is None:
        return None
    return tangent[(slice(None), *(None,) * (axes + 1 - tangent.ndim))]
