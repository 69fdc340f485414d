"""Nodes with parameters in other places than layers have them: as tensors of their own, or as a transposed weight.

GPT-2 keeps its weights as (inputs, outputs). Class tokens, scales of attention and tables of relative positions are
parameters that enter the graph as tensors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from workers.engine.autodiff.graph.linear import affine_tangent
from workers.engine.autodiff.graph.nodes import (
    BackwardContext,
    InputTangents,
    Tangent,
    given_places,
    part_of,
)
from workers.engine.model.parameters import ParameterSlice


@dataclass
class SharedParameter:
    """A parameter as a tensor of its own, the same for all rows: what a row adds to it can't be told apart."""

    target: str
    sources: tuple[str, ...]
    place: ParameterSlice
    cotangent: Tensor | None = None

    @property
    def places(self) -> tuple[ParameterSlice, ...]:
        """The places in θ of its selected parameters."""
        return (self.place,)

    def forward(self, input_tangents: InputTangents, theta_tangent: Tangent) -> Tensor | None:
        """The output's tangent, (k, *shape); None where it is zero."""
        tangent = theta_tangent.of(self.place)
        return None if tangent is None else tangent.view(len(tangent), *self.place.shape)

    def backward(self, cotangent: Tensor) -> Sequence[Tensor]:
        """It has no sources."""
        return []

    def r_backward(self, context: BackwardContext) -> Sequence[Tensor | None]:
        """Adds its share of H v to the sums."""
        if context.sums is not None:
            context.sums.of(self.place).add_(context.r_cotangent)
        return []

    def row_gradients(self, result: Tensor) -> None:
        """Raises ValueError."""
        raise ValueError(f"the gradient of {self.place.name} is known of all rows together alone")


@dataclass
class RepeatedParameter:
    """A parameter (1, ...) that was expanded to one for each row."""

    target: str
    sources: tuple[str, ...]
    place: ParameterSlice
    shape: tuple[int, ...]  # (B, ...)
    cotangent: Tensor | None = None

    @property
    def places(self) -> tuple[ParameterSlice, ...]:
        """The places in θ of its selected parameters."""
        return (self.place,)

    def forward(self, input_tangents: InputTangents, theta_tangent: Tangent) -> Tensor | None:
        """The output's tangent, (k, B, ...); None where it is zero."""
        tangent = theta_tangent.of(self.place)
        if tangent is None:
            return None
        return tangent.view(len(tangent), *self.place.shape).expand(len(tangent), *self.shape)

    def backward(self, cotangent: Tensor) -> Sequence[Tensor]:
        """It has no sources."""
        return []

    def r_backward(self, context: BackwardContext) -> Sequence[Tensor | None]:
        """Adds its share of H v to the sums."""
        if context.sums is not None:
            place = context.sums.of(self.place)
            place.add_(context.r_cotangent.sum(1).view(place.shape))
        return []

    def row_gradients(self, result: Tensor) -> None:
        """Add what it has of each row's gradient to `result`, (B, p)."""
        assert self.cotangent is not None
        part_of(result, self.place).add_(self.cotangent.flatten(1))


@dataclass
class TransposedLinear:
    """z = a W + b over the last axis, W as (in, out)."""

    target: str
    sources: tuple[str, ...]
    weight: Tensor  # (in, out)
    weight_slice: ParameterSlice | None  # None: frozen
    bias_slice: ParameterSlice | None
    inputs: Tensor  # a, (B, ..., in), or (B · tokens, in)
    cotangent: Tensor | None = None  # ∂ΣL/∂z

    @property
    def places(self) -> tuple[ParameterSlice, ...]:
        """The places in θ of its selected parameters."""
        return given_places(self.weight_slice, self.bias_slice)

    def forward(self, input_tangents: InputTangents, theta_tangent: Tangent) -> Tensor | None:
        """The output's tangent, (k, ...); None where it is zero."""
        tangent, weights = input_tangents[0], theta_tangent.of(self.weight_slice)
        result = affine_tangent(
            None if tangent is None else _flat(tangent, 1) @ self.weight,
            _flat(self.inputs, 0),
            None if weights is None else weights.view(len(weights), *self.weight.shape),
            theta_tangent.of(self.bias_slice),
        )
        shape = (len(theta_tangent), *self.inputs.shape[:-1], self.weight.shape[1])
        return None if result is None else result.reshape(shape)

    def backward(self, cotangent: Tensor) -> Sequence[Tensor]:
        """The sources' cotangents, from the output's."""
        return [cotangent @ self.weight.T]

    def r_backward(self, context: BackwardContext) -> Sequence[Tensor | None]:
        """Tangents of the sources' cotangents if wanted; the parameters' share of H v is added to the sums."""
        assert self.cotangent is not None
        r_cotangent, cotangent = _flat(context.r_cotangent, 1), _flat(self.cotangent, 0)
        count, tangent = len(r_cotangent), context.input_tangents[0]
        if context.sums is not None and self.bias_slice is not None:
            context.sums.of(self.bias_slice).add_(r_cotangent.sum(1))
        if context.sums is not None and self.weight_slice is not None:
            place = context.sums.of(self.weight_slice)
            place.baddbmm_(_flat(self.inputs, 0).T.expand(count, -1, -1), r_cotangent)
            if tangent is not None:
                place.baddbmm_(_flat(tangent, 1).mT, cotangent.expand(count, -1, -1))
        if not context.wanted:
            return [None]
        through = r_cotangent @ self.weight.T
        weights = context.theta_tangent.of(self.weight_slice)
        if weights is not None:
            affine_tangent(through, cotangent, weights.view(count, *self.weight.shape).mT, None)
        return [through.view(count, *self.inputs.shape)]

    def row_gradients(self, result: Tensor) -> None:
        """Add what it has of each row's gradient to `result`, (B, p)."""
        assert self.cotangent is not None
        if len(self.inputs) % len(result):
            raise ValueError(f"{self.target} takes no whole number of places a row")
        cotangent = self.cotangent.reshape(len(result), -1, self.weight.shape[1])
        inputs = self.inputs.reshape(len(result), -1, self.weight.shape[0])
        if self.bias_slice is not None:
            part_of(result, self.bias_slice).add_(cotangent.sum(1))
        if self.weight_slice is not None:
            part_of(result, self.weight_slice).add_(torch.bmm(inputs.mT, cotangent).flatten(1))


def _flat(value: Tensor, leading: int) -> Tensor:
    """The axes between the first `leading` and the last as one."""
    return value.reshape(*value.shape[:leading], -1, value.shape[-1])
