"""Convolutions with groups: depthwise ones of MobileNet and ConvNeXt, and those of ResNeXt.

Each term is one convolution of torch's for all vectors: where the vectors are in the values they stand among the rows,
where they are in the weights, among the channels of each group.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from workers.engine.autodiff.graph.nodes import (
    BackwardContext,
    InputTangents,
    Tangent,
    given_places,
    part_of,
)
from workers.engine.model.parameters import ParameterSlice


@dataclass
class GroupedConvolution:
    """A convolution of any number of axes, each group of inputs with weights of its own."""

    target: str
    sources: tuple[str, ...]
    weight: Tensor  # (out, in / groups, *kernel)
    weight_slice: ParameterSlice | None
    bias_slice: ParameterSlice | None
    inputs: Tensor  # a, (B, in, *space)
    stride: list[int]
    padding: list[int]
    dilation: list[int]
    groups: int
    output: torch.Size  # (B, out, *space)
    cotangent: Tensor | None = None  # (B, out, *space)

    @property
    def places(self) -> tuple[ParameterSlice, ...]:
        """The places in θ of its selected parameters."""
        return given_places(self.weight_slice, self.bias_slice)

    def forward(self, input_tangents: InputTangents, theta_tangent: Tangent) -> Tensor | None:
        """The output's tangent, (k, ...); None where it is zero."""
        tangent, count, result = input_tangents[0], len(theta_tangent), None
        if tangent is not None:
            found = self._convolved(tangent.flatten(0, 1), self.weight, self.groups)
            result = found.unflatten(0, (count, -1))
        weights = theta_tangent.of(self.weight_slice)
        if weights is not None:
            moved = self._convolved(self.inputs, self._among_outputs(weights), self.groups)
            moved = self._apart(moved, count)
            result = moved if result is None else result + moved
        shift = theta_tangent.of(self.bias_slice)
        if shift is not None:
            shift = shift.view(count, 1, -1, *(1,) * len(self.stride))
            result = shift.expand(count, *self.output) if result is None else result + shift
        return result

    def backward(self, cotangent: Tensor) -> Sequence[Tensor]:
        """The sources' cotangents, from the output's."""
        return [self._to_inputs(cotangent, self.weight)]

    def r_backward(self, context: BackwardContext) -> Sequence[Tensor | None]:
        """Tangents of the sources' cotangents if wanted; the parameters' share of H v is added to the sums."""
        assert self.cotangent is not None
        r_cotangent, tangent = context.r_cotangent, context.input_tangents[0]
        count, sums = len(r_cotangent), context.sums
        if sums is not None and self.bias_slice is not None:
            over = (1, *range(3, r_cotangent.ndim))
            sums.of(self.bias_slice).add_(r_cotangent.sum(over))
        if sums is not None and self.weight_slice is not None:
            place = sums.of(self.weight_slice)
            for j in range(count):
                place[j] += self._to_weight(r_cotangent[j], self.inputs)
                if tangent is not None:
                    place[j] += self._to_weight(self.cotangent, tangent[j])
        if not context.wanted:
            return [None]
        through = self._to_inputs(r_cotangent.flatten(0, 1), self.weight).unflatten(0, (count, -1))
        weights = context.theta_tangent.of(self.weight_slice)
        if weights is not None:
            each = weights.view(count, *self.weight.shape)
            pulled = [self._to_inputs(self.cotangent, each[j]) for j in range(count)]
            through = through + torch.stack(pulled)
        return [through]

    def row_gradients(self, result: Tensor) -> None:
        """Add what it has of each row's gradient to `result`, (B, p)."""
        assert self.cotangent is not None
        rows = len(result)
        if self.bias_slice is not None:
            part_of(result, self.bias_slice).add_(self.cotangent.flatten(2).sum(2))
        if self.weight_slice is not None:
            # Each row's channels as groups of their own.
            inputs, cotangent = (
                each.reshape(1, -1, *each.shape[2:]) for each in (self.inputs, self.cotangent)
            )
            weight = self.weight.repeat(rows, *(1,) * (self.weight.ndim - 1))
            found = self._backward(cotangent, inputs, weight, rows * self.groups, 1)
            part_of(result, self.weight_slice).add_(found.view(rows, -1))

    def _among_outputs(self, weights: Tensor) -> Tensor:
        """v's (k, size) as outputs of the same groups, (groups · k · out / groups, ...)."""
        shape = self.weight.shape
        each = weights.view(len(weights), self.groups, shape[0] // self.groups, *shape[1:])
        return each.transpose(0, 1).flatten(0, 2)

    def _apart(self, value: Tensor, count: int) -> Tensor:
        """(B, groups · k · out / groups, *space) as (k, B, out, *space)."""
        return value.unflatten(1, (self.groups, count, -1)).movedim(2, 0).flatten(2, 3)

    def _convolved(self, images: Tensor, weight: Tensor, groups: int) -> Tensor:
        none = [0] * len(self.stride)
        return torch.ops.aten.convolution(
            images, weight, None, self.stride, self.padding, self.dilation, False, none, groups
        )

    def _to_inputs(self, cotangent: Tensor, weight: Tensor) -> Tensor:
        shape = (len(cotangent), *self.inputs.shape[1:])
        inputs = cotangent.new_empty(1).expand(shape)
        return self._backward(cotangent, inputs, weight, self.groups, 0)

    def _to_weight(self, cotangent: Tensor, inputs: Tensor) -> Tensor:
        return self._backward(cotangent, inputs, self.weight, self.groups, 1)

    def _backward(
        self, cotangent: Tensor, inputs: Tensor, weight: Tensor, groups: int, which: int
    ) -> Tensor:
        """The cotangent of the inputs (0) or of the weight (1)."""
        none = [0] * len(self.stride)
        given = (self.stride, self.padding, self.dilation, False, none, groups)
        wanted = [which == 0, which == 1, False]
        found: Tensor = torch.ops.aten.convolution_backward(
            cotangent.contiguous(), inputs, weight, None, *given, wanted
        )[which]
        return found
