"""Nonlinear nodes without parameters: softmax, normalisation, products of two nodes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from workers.engine.autodiff.graph.nodes import BackwardContext, InputTangents, Tangent, summed_to


@dataclass
class Symmetric(ABC):
    """A node of one other whose derivative is a symmetric map: the same forward and back."""

    target: str
    sources: tuple[str, ...]
    cotangent: Tensor | None = field(default=None, kw_only=True)

    def forward(self, input_tangents: InputTangents, theta_tangent: Tangent) -> Tensor | None:
        """The output's tangent, (k, ...); None where it is zero."""
        return None if input_tangents[0] is None else self._pulled(input_tangents[0])

    def backward(self, cotangent: Tensor) -> Sequence[Tensor]:
        """The sources' cotangents, from the output's."""
        return [self._pulled(cotangent)]

    @abstractmethod
    def _pulled(self, cotangent: Tensor) -> Tensor:
        """The map, of a cotangent shaped as the node, or of (k, ...) of them."""


@dataclass
class Softmax(Symmetric):
    """y = softmax of a node over one axis, R y = y (∂z − ⟨y, ∂z⟩); entries that a mask has at −∞ are
    0 in y and stay so."""

    axis: int  # from the end, so the same with the vectors' axis in front
    value: Tensor  # y

    def r_backward(self, context: BackwardContext) -> Sequence[Tensor | None]:
        """Tangents of the sources' cotangents, where they are wanted."""
        if not context.wanted:
            return [None]
        assert self.cotangent is not None
        r_cotangent, output_tangent = context.r_cotangent, context.output_tangent
        if output_tangent is None:
            return [self._pulled(r_cotangent)]
        inner = (
            (self.value * r_cotangent)
            .addcmul_(output_tangent, self.cotangent)
            .sum(self.axis, keepdim=True)
        )
        centred = self.cotangent - (self.value * self.cotangent).sum(self.axis, keepdim=True)
        return [(r_cotangent - inner).mul_(self.value).addcmul_(output_tangent, centred)]

    def _pulled(self, cotangent: Tensor) -> Tensor:
        through = cotangent * self.value
        inner = through.sum(self.axis, keepdim=True)
        return through.addcmul_(self.value, inner, value=-1.0)


@dataclass
class LogSoftmax:
    """y = log softmax of a node over one axis."""

    target: str
    sources: tuple[str, ...]
    axis: int  # from the end
    chances: Tensor  # exp y
    cotangent: Tensor | None = None

    def forward(self, input_tangents: InputTangents, theta_tangent: Tangent) -> Tensor | None:
        """R y = ∂z − ⟨exp y, ∂z⟩."""
        if input_tangents[0] is None:
            return None
        return input_tangents[0] - (self.chances * input_tangents[0]).sum(self.axis, keepdim=True)

    def backward(self, cotangent: Tensor) -> Sequence[Tensor]:
        """The sources' cotangents, from the output's."""
        return [self._pulled(cotangent)]

    def r_backward(self, context: BackwardContext) -> Sequence[Tensor | None]:
        """Tangents of the sources' cotangents, where they are wanted."""
        if not context.wanted:
            return [None]
        assert self.cotangent is not None
        through = self._pulled(context.r_cotangent)
        if context.output_tangent is not None:
            total = self.chances * self.cotangent.sum(self.axis, keepdim=True)
            through.addcmul_(context.output_tangent, total, value=-1.0)
        return [through]

    def _pulled(self, cotangent: Tensor) -> Tensor:
        return cotangent - self.chances * cotangent.sum(self.axis, keepdim=True)


@dataclass
class Normalised(Symmetric):
    """x̂ = (x − mean) s over the last axes, with s = (variance + ε)^(−1/2):
    R x̂ = s (∂x − mean ∂x − x̂ mean(x̂ ∂x))."""

    axes: tuple[int, ...]  # from the end
    value: Tensor  # x̂
    inverse: Tensor  # s, with axes of size 1

    def r_backward(self, context: BackwardContext) -> Sequence[Tensor | None]:
        """Tangents of the sources' cotangents, where they are wanted."""
        if not context.wanted:
            return [None]
        assert self.cotangent is not None
        r_cotangent, tangent, output_tangent = (
            context.r_cotangent,
            context.input_tangents[0],
            context.output_tangent,
        )
        if tangent is None or output_tangent is None:
            return [self._pulled(r_cotangent)]
        # R s = −s² mean(x̂ ∂x)
        shrinking = self._mean(self.value * tangent) * self.inverse
        inner = self._mean((self.value * r_cotangent).addcmul_(output_tangent, self.cotangent))
        through = (r_cotangent - self._mean(r_cotangent)).addcmul_(self.value, inner, value=-1.0)
        through.addcmul_(output_tangent, self._mean(self.value * self.cotangent), value=-1.0)
        through *= self.inverse
        return [through.addcmul_(self._pulled(self.cotangent), shrinking, value=-1.0)]

    def _pulled(self, cotangent: Tensor) -> Tensor:
        inner = self._mean(self.value * cotangent)
        through = (cotangent - self._mean(cotangent)).addcmul_(self.value, inner, value=-1.0)
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
    cotangent: Tensor | None = None

    def forward(self, input_tangents: InputTangents, theta_tangent: Tangent) -> Tensor | None:
        """The output's tangent, (k, ...); None where it is zero."""
        first, second = (_aligned(each, self._axes) for each in input_tangents)
        result = None if first is None else first * self.right
        if second is not None:
            other = second * self.left
            result = other if result is None else result + other
        return result

    def backward(self, cotangent: Tensor) -> Sequence[Tensor]:
        """The sources' cotangents, from the output's."""
        return [
            summed_to(cotangent * self.right, 0, self.left.shape),
            summed_to(cotangent * self.left, 0, self.right.shape),
        ]

    def r_backward(self, context: BackwardContext) -> Sequence[Tensor | None]:
        """Tangents of the sources' cotangents, where they are wanted."""
        if not context.wanted:
            return [None, None]
        assert self.cotangent is not None
        first, second = (_aligned(each, self._axes) for each in context.input_tangents)
        left, right = context.r_cotangent * self.right, context.r_cotangent * self.left
        if second is not None:
            left = left + second * self.cotangent
        if first is not None:
            right = right + first * self.cotangent
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
    cotangent: Tensor | None = None  # (..., a, c)

    def forward(self, input_tangents: InputTangents, theta_tangent: Tangent) -> Tensor | None:
        """The output's tangent, (k, ...); None where it is zero."""
        return _both(
            None if input_tangents[0] is None else _times(input_tangents[0], self.right),
            None if input_tangents[1] is None else _times(input_tangents[1].mT, self.left.mT).mT,
        )

    def backward(self, cotangent: Tensor) -> Sequence[Tensor]:
        """The sources' cotangents, from the output's."""
        return [cotangent @ self.right.mT, self.left.mT @ cotangent]

    def r_backward(self, context: BackwardContext) -> Sequence[Tensor | None]:
        """Tangents of the sources' cotangents, where they are wanted."""
        if not context.wanted:
            return [None, None]
        assert self.cotangent is not None
        first, second = context.input_tangents
        left = _both(
            _times(context.r_cotangent, self.right.mT),
            None if second is None else _times(second, self.cotangent.mT).mT,
        )
        right = _both(
            _times(context.r_cotangent.mT, self.left).mT,
            None if first is None else _times(first.mT, self.cotangent),
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


def _aligned(tangent: Tensor | None, axes: int) -> Tensor | None:
    """The tangent with axes of size 1 after the vectors' one, so that it broadcasts as its value does."""
    if tangent is None:
        return None
    return tangent[(slice(None), *(None,) * (axes + 1 - tangent.ndim))]
