"""Nodes with parameters that are matrices, factors or shifts: linear layers, embeddings, norms.

A term with the layer's own weights is one matrix product of all vectors and rows; a term with v's
weights is a batch of them, a vector each. What v's terms are multiplied with, inputs and
cotangents, is the same for all vectors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from workers.engine.autodiff.derivative import Sums
from workers.engine.autodiff.graph.nodes import (
    BackwardContext,
    InputTangents,
    Tangent,
    given_places,
    part_of,
)
from workers.engine.model.parameters import ParameterSlice

# Outputs of a layer that are few for the columns of a matrix product.
NARROW = 12


@dataclass
class LinearLayer:
    """z = a Wᵀ + b over the last axis.

    `image` is the shape (C, *space) of what was flattened into the last axis, if it was: such
    values lie channels last, and the few weights are put in their order instead of many values in
    that of the weights.
    """

    ROWS: ClassVar = ("inputs", "cotangent")

    target: str
    sources: tuple[str, ...]
    weight: Tensor  # (out, in)
    weight_slice: ParameterSlice | None  # None: frozen
    bias_slice: ParameterSlice | None
    inputs: Tensor  # a, (B, ..., in), or (B, C, *space)
    image: torch.Size | None = None
    cotangent: Tensor | None = None  # ∂ΣL/∂z, (B, ..., out)

    def __post_init__(self) -> None:
        self._inputs = self._flat_inputs(self.inputs, 0)
        self._weight = self._lying(self.weight.unsqueeze(0)).squeeze(0)
        self._before = self.inputs.shape[:1] if self.image else self.inputs.shape[:-1]

    @property
    def places(self) -> tuple[ParameterSlice, ...]:
        """The places in θ of its selected parameters."""
        return given_places(self.weight_slice, self.bias_slice)

    def forward(self, input_tangents: InputTangents, theta_tangent: Tangent) -> Tensor | None:
        """The output's tangent, (k, ...); None where it is zero."""
        count, tangent, weights = (
            len(theta_tangent),
            input_tangents[0],
            theta_tangent.of(self.weight_slice),
        )
        tangent = None if tangent is None else self._flat_inputs(tangent, 1)
        weights = None if weights is None else self._lying(self._matrices(weights))
        shift = theta_tangent.of(self.bias_slice)
        if len(self.weight) <= NARROW and tangent is not None and weights is not None:
            through = self._narrow(tangent, weights)
            result = affine_tangent(through, self._inputs, None, shift)
        else:
            result = affine_tangent(
                None if tangent is None else tangent @ self._weight.T,
                self._inputs,
                None if weights is None else weights.transpose(1, 2),
                shift,
            )
        return None if result is None else result.view(count, *self._before, -1)

    def _narrow(self, tangent: Tensor, weights: Tensor) -> Tensor:
        """R of few outputs (k, N, out), shift left out, from (k, N, in) and v's weights (k, out, in).

        Rows last: products with few columns run at a quarter of the rate of those with few rows.
        """
        count, width, size = weights.shape
        result = (weights.reshape(-1, size) @ self._inputs.T).view(count, width, -1)
        result.baddbmm_(self._weight.expand(count, -1, -1), tangent.mT)
        return result.mT.contiguous()

    def backward(self, cotangent: Tensor) -> Sequence[Tensor]:
        """The sources' cotangents, from the output's."""
        return [self._shaped((_flat(cotangent, 0) @ self._weight).unsqueeze(0)).squeeze(0)]

    def r_backward(self, context: BackwardContext) -> Sequence[Tensor | None]:
        """Tangents of the sources' cotangents if wanted; the parameters' share of H v is added to the sums."""
        r_cotangent = _flat(context.r_cotangent, 1)
        if context.sums is not None:
            self._share(context.sums, context, r_cotangent)
        if not context.wanted:
            return [None]
        through = r_cotangent @ self._weight
        weights = context.theta_tangent.of(self.weight_slice)
        if weights is not None:
            assert self.cotangent is not None
            affine_tangent(
                through, _flat(self.cotangent, 0), self._lying(self._matrices(weights)), None
            )
        return [self._shaped(through)]

    def _share(self, sums: Sums, context: BackwardContext, r_cotangent: Tensor) -> None:
        if self.bias_slice is not None:
            sums.of(self.bias_slice).add_(r_cotangent.sum(1))
        if self.weight_slice is None:
            return
        count, tangent, place = (
            len(r_cotangent),
            context.input_tangents[0],
            sums.of(self.weight_slice),
        )
        share = place if self.image is None else torch.zeros_like(place)
        share.baddbmm_(r_cotangent.mT, self._inputs.expand(count, -1, -1))
        if tangent is not None:
            assert self.cotangent is not None
            cotangent = _flat(self.cotangent, 0).expand(count, -1, -1)
            share.baddbmm_(cotangent.mT, self._flat_inputs(tangent, 1))
        if self.image is not None:
            place.add_(self._ordered(share).view(place.shape))

    def row_gradients(self, result: Tensor) -> None:
        """Add what it has of each row's gradient to `result`, (B, p)."""
        assert self.cotangent is not None
        cotangent = self.cotangent.reshape(
            len(result), -1, self.cotangent.shape[-1]
        )  # (B, tokens, out)
        if self.bias_slice is not None:
            part_of(result, self.bias_slice).add_(cotangent.sum(1))
        if self.weight_slice is not None:
            inputs = self._inputs.view(len(result), -1, self._inputs.shape[-1])
            if (
                cotangent.shape[1] == 1 and self.image is None
            ):  # no sum: no numbers but the result's
                place = part_of(result, self.weight_slice).view(len(result), *self.weight.shape)
                place.addcmul_(cotangent.mT, inputs)
                return
            share = self._ordered(torch.bmm(cotangent.mT, inputs))
            part_of(result, self.weight_slice).add_(share.flatten(1))

    def _matrices(self, weights: Tensor) -> Tensor:
        """v's, (k, size) to (k, out, in)."""
        return weights.view(len(weights), *self.weight.shape)

    def _flat_inputs(self, value: Tensor, leading: int) -> Tensor:
        """(N, in), or (k, N, in), in the order that they lie in."""
        if self.image is None:
            return _flat(value, leading)
        return value.movedim(leading + 1, -1).flatten(leading + 1)

    def _shaped(self, value: Tensor) -> Tensor:
        """(k, N, in) as R of the inputs is shaped."""
        if self.image is None:
            return value.view(len(value), *self.inputs.shape)
        channels, *space = self.image
        return value.view(*value.shape[:2], *space, channels).movedim(-1, 2)

    def _lying(self, weights: Tensor) -> Tensor:
        """(k, out, in) in the order that inputs lie in."""
        if self.image is None:
            return weights
        return weights.unflatten(2, self.image).movedim(2, -1).flatten(2)

    def _ordered(self, weights: Tensor) -> Tensor:
        """(k, out, in) back in the weight's own order."""
        if self.image is None:
            return weights
        channels, *space = self.image
        return weights.unflatten(2, (*space, channels)).movedim(-1, 2).flatten(2)


@dataclass
class Embedding:
    """Rows of the weight by their numbers; the row `padding` is never learnt."""

    target: str
    sources: tuple[str, ...]
    weight: Tensor  # (number, width)
    weight_slice: ParameterSlice
    tokens: Tensor  # (B, ...), int64
    padding: int | None
    cotangent: Tensor | None = None  # (B, ..., width)

    @property
    def places(self) -> tuple[ParameterSlice, ...]:
        """The places in θ of its selected parameters."""
        return (self.weight_slice,)

    def forward(self, input_tangents: InputTangents, theta_tangent: Tangent) -> Tensor | None:
        """The output's tangent, (k, ...); None where it is zero."""
        weights = theta_tangent.of(self.weight_slice)
        if weights is None:
            return None
        rows = weights.view(len(weights), *self.weight.shape)[:, self.tokens]
        return rows if self.padding is None else rows * self._learnt(rows)

    def backward(self, cotangent: Tensor) -> Sequence[Tensor]:
        """The sources' cotangents, from the output's."""
        return []

    def r_backward(self, context: BackwardContext) -> Sequence[Tensor | None]:
        """Tangents of the sources' cotangents if wanted; the parameters' share of H v is added to the sums."""
        if context.sums is not None:
            r_cotangent = context.r_cotangent
            r_cotangent = (
                r_cotangent if self.padding is None else r_cotangent * self._learnt(r_cotangent)
            )
            place = context.sums.of(self.weight_slice)
            place.index_add_(1, self.tokens.flatten(), _flat(r_cotangent, 1))
        return []

    def row_gradients(self, result: Tensor) -> None:
        """Add what it has of each row's gradient to `result`, (B, p)."""
        assert self.cotangent is not None
        cotangent = (
            self.cotangent
            if self.padding is None
            else self.cotangent * self._learnt(self.cotangent)
        )
        numbers = self.tokens.reshape(len(result), -1)
        share = result.new_zeros(len(result), *self.weight.shape)
        places = numbers.unsqueeze(-1).expand(-1, -1, self.weight.shape[1])
        share.scatter_add_(1, places, cotangent.reshape(places.shape))
        part_of(result, self.weight_slice).add_(share.flatten(1))

    def _learnt(self, like: Tensor) -> Tensor:
        assert self.padding is not None
        return self.tokens.ne(self.padding).unsqueeze(-1).to(like.dtype)


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
    cotangent: Tensor | None = None

    @property
    def places(self) -> tuple[ParameterSlice, ...]:
        """The places in θ of its selected parameters."""
        return given_places(self.weight_slice, self.bias_slice)

    def forward(self, input_tangents: InputTangents, theta_tangent: Tangent) -> Tensor | None:
        """The output's tangent, (k, ...); None where it is zero."""
        result = input_tangents[0] if input_tangents else None
        if result is not None and self.weight is not None:
            result = result * self.weight.view(self.shape)
        factor, shift = theta_tangent.of(self.weight_slice), theta_tangent.of(self.bias_slice)
        if factor is not None:
            factor = self._padded(factor)
            result = (
                self.inputs * factor if result is None else result.addcmul_(self.inputs, factor)
            )
        if shift is not None:
            shift = self._padded(shift)
            result = shift if result is None else result + shift
        return None if result is None else result.expand(len(theta_tangent), *self.inputs.shape)

    def backward(self, cotangent: Tensor) -> Sequence[Tensor]:
        """The sources' cotangents, from the output's."""
        return [cotangent if self.weight is None else cotangent * self.weight.view(self.shape)]

    def r_backward(self, context: BackwardContext) -> Sequence[Tensor | None]:
        """Tangents of the sources' cotangents if wanted; the parameters' share of H v is added to the sums."""
        assert self.cotangent is not None
        r_cotangent, tangent = (
            context.r_cotangent,
            context.input_tangents[0] if context.input_tangents else None,
        )
        if context.sums is not None and self.weight_slice is not None:
            share = r_cotangent * self.inputs
            if tangent is not None:
                share.addcmul_(tangent, self.cotangent)
            self._add(context.sums.of(self.weight_slice), share)
        if context.sums is not None and self.bias_slice is not None:
            self._add(context.sums.of(self.bias_slice), r_cotangent)
        if not context.wanted or not self.sources:
            return [None] * len(self.sources)
        through = r_cotangent if self.weight is None else r_cotangent * self.weight.view(self.shape)
        factor = context.theta_tangent.of(self.weight_slice)
        if factor is not None:
            through.addcmul_(self.cotangent, self._padded(factor))
        return [through]

    def row_gradients(self, result: Tensor) -> None:
        """Add what it has of each row's gradient to `result`, (B, p)."""
        assert self.cotangent is not None
        if self.weight_slice is not None:
            share = (self.cotangent * self.inputs).unsqueeze(1)
            self._add(part_of(result, self.weight_slice), share)
        if self.bias_slice is not None:
            self._add(part_of(result, self.bias_slice), self.cotangent.unsqueeze(1))

    def _padded(self, value: Tensor) -> Tensor:
        return value.view(len(value), *self._row())

    def _row(self) -> tuple[int, ...]:
        """γ's shape against the value's, the row's axis among it."""
        return (1,) * (self.inputs.ndim - len(self.shape)) + self.shape

    def _add(self, place: Tensor, share: Tensor) -> None:
        """share (k, B, ...), or (B, 1, ...) for the rows' own, to (k, ...)."""
        wide = [1 + i for i, size in enumerate(self._row()) if size == 1]
        place.add_(share.sum(wide).reshape(place.shape))


def _flat(value: Tensor, leading: int) -> Tensor:
    """The axes between the first `leading` and the last as one."""
    return value.reshape(*value.shape[:leading], -1, value.shape[-1])


def affine_tangent(
    through: Tensor | None, inputs: Tensor, weights: Tensor | None, shift: Tensor | None
) -> Tensor | None:
    """R of the outputs (k, N, out): what came `through` (k, N, out), and is used up, and v's terms.

    `inputs` (N, in) are the same for all vectors; `weights` (k, in, out) and `shift` (k, out) are
    v's. What is None is zero.
    """
    result = through
    if weights is not None:
        if result is None:
            result = inputs @ weights
        else:
            result.baddbmm_(inputs.expand(len(weights), -1, -1), weights)
    if shift is not None:
        along = shift.unsqueeze(1)
        if result is None:
            return along.expand(-1, len(inputs), -1)
        result.add_(along)
    return result
