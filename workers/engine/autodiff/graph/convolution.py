"""Convolutions by large matrix products: inputs and cotangents unfolded once, for all vectors.

With U the windows of the inputs that each output sees, and D the windows of the cotangent that
each input reaches, a row of the matrix a place,

    z = U Wᵀ,   ∂z along v = U Vᵀ + (∂a) * W,   δ_a = D W,   R δ_a = D V + (R δ) *ᵀ W,

and v's share of H v is (R δ)ᵀ U + Dᵀ ∂a. What is left as convolutions, ∂a * W and (R δ) *ᵀ W, is on
small images a product with W's matrix over all places at once: a few zeros in it cost less than
unfolding does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional as F

from workers.engine.autodiff.derivative import Sums
from workers.engine.autodiff.graph.linear import affine_tangent
from workers.engine.autodiff.graph.nodes import (
    BackwardContext,
    InputTangents,
    Tangent,
    given_places,
    part_of,
)
from workers.engine.model.parameters import ParameterSlice

# W's matrix over all places has so many times the multiplications of the convolution itself:
# `python -m benchmarks.peers --case cnn-cg` shows the three bounds.
MOST_WASTE = 2.5
MOST_ENTRIES = 1 << 22
# Bytes of such matrices that a model's graph keeps; without one a convolution is taken as it is.
MOST_KEPT = 1 << 27
# With fewer outputs than this, products a vector each are slower than one and a transposition.
NARROW = 32


@dataclass
class Convolution:
    """A convolution without groups, of any number of axes; values lie channels last."""

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
    kept: dict[tuple[str, torch.Size], Tensor] = field(default_factory=dict)  # of the model's graph
    cotangent: Tensor | None = None  # (B, out, *space)

    @property
    def places(self) -> tuple[ParameterSlice, ...]:
        """The places in θ of its selected parameters."""
        return given_places(self.weight_slice, self.bias_slice)

    def unfolded_bytes(self, bends: bool) -> int:
        """Bytes of U for a row of the batch; with those of D where products have the model's own curvature."""
        windows = self.space.numel() * self.weight[0].numel()
        reached = self.inputs.shape[2:].numel() * len(self.weight) * self._kernel.numel()
        return (windows + (reached if bends else 0)) * self.weight.itemsize

    @property
    def over_places_bytes(self) -> int:
        """Bytes of `over_places`, were there room; 0 where it wastes too much."""
        entries = self._entries_over_places
        return 0 if entries is None else entries * self.weight.itemsize

    @property
    def _entries_over_places(self) -> int | None:
        channels, size = self.weight.shape[1], self.inputs.shape[2:]
        entries = channels * size.numel() * len(self.weight) * self.space.numel()
        if size.numel() > MOST_WASTE * self._kernel.numel() or entries > MOST_ENTRIES:
            return None
        return entries

    @cached_property
    def windows(self) -> Tensor:
        """U, (B · outputs' places, in · kernel)."""
        padded = self.inputs
        if any(self.padding):
            padded = F.pad(padded, [each for pad in reversed(self.padding) for each in (pad, pad)])
        found = unfolded(padded, self._kernel, self.stride, self.dilation)
        channels_last = found.movedim(1, 1 + len(self._kernel))  # (B, *space, in, *kernel)
        return channels_last.reshape(-1, self.weight[0].numel())

    @cached_property
    def reached(self) -> Tensor:
        """D, (B · inputs' places, out · kernel)."""
        assert self.cotangent is not None
        axes = range(len(self._kernel))
        reach = [self.dilation[i] * (self._kernel[i] - 1) for i in axes]
        sizes = [self.inputs.shape[2 + i] + reach[i] for i in axes]
        spread = self.cotangent.new_zeros(*self.cotangent.shape[:2], *sizes)
        places = tuple(slice(reach[i] - self.padding[i], None, self.stride[i]) for i in axes)
        ends = tuple(slice(0, each) for each in self.space)
        spread[(slice(None), slice(None), *places)][(slice(None), slice(None), *ends)] = (
            self.cotangent
        )
        found = unfolded(spread, self._kernel, [1] * len(self._kernel), self.dilation)
        found = found.flip([2 + len(self._kernel) + i for i in axes])
        channels_last = found.movedim(1, 1 + len(self._kernel))
        return channels_last.reshape(-1, self.cotangent.shape[1] * self._kernel.numel())

    @cached_property
    def over_places(self) -> Tensor | None:
        """W's matrix (inputs' places · in, outputs' places · out), None where it wastes too much."""
        entries, size = self._entries_over_places, self.inputs.shape[2:]
        if entries is None:
            return None
        key, like = (self.target, size), self.weight
        if key not in self.kept:
            used = sum(each.nbytes for each in self.kept.values())
            if used + entries * like.itemsize > MOST_KEPT:
                return None
            channels = self.weight.shape[1]
            count = channels * size.numel()
            units = torch.eye(count, dtype=like.dtype, device=like.device)
            images = _channels_first(units.view(-1, *size, channels), 1)
            self.kept[key] = self._last(self._convolved(images)).flatten(1)
        return self.kept[key]

    @property
    def _kernel(self) -> torch.Size:
        return self.weight.shape[2:]

    def forward(self, input_tangents: InputTangents, theta_tangent: Tangent) -> Tensor | None:
        """The output's tangent, (k, ...); None where it is zero."""
        tangent, count, weights = (
            input_tangents[0],
            len(theta_tangent),
            theta_tangent.of(self.weight_slice),
        )
        result = affine_tangent(
            None if tangent is None else self._forwards(tangent),
            self.windows,
            None if weights is None else weights.view(count, len(self.weight), -1).transpose(1, 2),
            theta_tangent.of(self.bias_slice),
        )
        if result is None:
            return None
        return _channels_first(result.view(count, len(self.inputs), *self.space, -1), 2)

    def backward(self, cotangent: Tensor) -> Sequence[Tensor]:
        """The sources' cotangents, from the output's."""
        return [self._transposed(cotangent)]

    def r_backward(self, context: BackwardContext) -> Sequence[Tensor | None]:
        """Tangents of the sources' cotangents if wanted; the parameters' share of H v is added to the sums."""
        r_cotangent = self._last(context.r_cotangent).flatten(1, -2)  # (k, N, out)
        if context.sums is not None:
            self._share(context.sums, context, r_cotangent)
        if not context.wanted:
            return [None]
        through = self._backwards(context.r_cotangent)  # (k, B · places, in)
        weights = context.theta_tangent.of(self.weight_slice)
        if weights is not None:
            self._add_reached(through, weights)
        shape = (len(r_cotangent), len(self.inputs), *self.inputs.shape[2:], -1)
        return [_channels_first(through.view(shape), 2)]

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
        place.flatten(2).baddbmm_(r_cotangent.mT, self.windows.expand(count, -1, -1))
        if tangent is not None:
            tangent = self._last(tangent).flatten(1, -2)
            crossed = torch.bmm(tangent.mT, self.reached.expand(count, -1, -1))
            crossed = crossed.view(count, self.weight.shape[1], len(self.weight), *self._kernel)
            place.add_(crossed.transpose(1, 2))

    def row_gradients(self, result: Tensor) -> None:
        """Add what it has of each row's gradient to `result`, (B, p)."""
        assert self.cotangent is not None
        cotangent = self.cotangent.flatten(2)
        if self.bias_slice is not None:
            part_of(result, self.bias_slice).add_(cotangent.sum(2))
        if self.weight_slice is not None:
            windows = self.windows.view(len(result), cotangent.shape[2], -1)
            part_of(result, self.weight_slice).add_(torch.bmm(cotangent, windows).flatten(1))

    def _add_reached(self, through: Tensor, given: Tensor) -> None:
        """Add D V to (k, N, in)."""
        count, inside = through.shape[0], through.shape[2]
        weights = given.view(count, len(self.weight), inside, -1).permute(0, 1, 3, 2)
        if inside >= NARROW:
            weights = weights.reshape(count, -1, inside)
            affine_tangent(through, self.reached, weights, None)
        else:
            together = weights.permute(1, 2, 0, 3).reshape(self.reached.shape[1], -1)
            found = self.reached @ together  # (N, k · in)
            through.add_(found.view(len(found), count, inside).transpose(0, 1))

    def _forwards(self, tangent: Tensor) -> Tensor:
        """∂a * W, (k, N, out)."""
        count, rows = tangent.shape[:2]
        if self.over_places is not None:
            flat = self._last(tangent).reshape(count * rows, -1)
            return (flat @ self.over_places).view(count, -1, len(self.weight))
        found = self._convolved(tangent.flatten(0, 1))
        return self._last(found).reshape(count, -1, len(self.weight))

    def _backwards(self, r_cotangent: Tensor) -> Tensor:
        """(R δ) *ᵀ W, (k, N, in)."""
        count, rows = r_cotangent.shape[:2]
        if self.over_places is not None:
            flat = self._last(r_cotangent).reshape(count * rows, -1)
            return (flat @ self.over_places.T).view(count, -1, self.weight.shape[1])
        found = self._transposed(r_cotangent.flatten(0, 1))
        return self._last(found).reshape(count, -1, self.weight.shape[1])

    def _last(self, value: Tensor) -> Tensor:
        """(..., C, *space) to (..., *space, C): dense where values lie channels last."""
        return value.movedim(-1 - len(self.stride), -1)

    def _convolved(self, images: Tensor) -> Tensor:
        none = [0] * len(self.stride)
        return torch.ops.aten.convolution(
            images, self.weight, None, self.stride, self.padding, self.dilation, False, none, 1
        )

    def _transposed(self, cotangent: Tensor) -> Tensor:
        """From the outputs' side (N, out, ...) to the inputs' (N, in, ...)."""
        shape = (len(cotangent), self.weight.shape[1], *self.inputs.shape[2:])
        inputs = cotangent.new_empty(1).expand(shape)
        given = (self.stride, self.padding, self.dilation, False, [0] * len(self.stride), 1)
        found: Tensor = torch.ops.aten.convolution_backward(
            cotangent, inputs, self.weight, None, *given, [True, False, False]
        )[0]
        return found


def unfolded(
    value: Tensor, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
) -> Tensor:
    """Windows (B, C, *places, *kernel) of (B, C, *space): a view."""
    axes = len(kernel)
    for i in range(axes):
        value = value.unfold(2 + i, dilation[i] * (kernel[i] - 1) + 1, stride[i])
    steps = tuple(slice(None, None, each) for each in dilation)
    return value[(slice(None),) * (2 + axes) + steps]


def _channels_first(value: Tensor, axis: int) -> Tensor:
    """(..., *space, C) to (..., C, *space), C at this axis: a view that stays channels last."""
    return value.movedim(-1, axis)


@dataclass
class Picked:
    """Entries of (B, C, *space) picked for (B, C, *windows); values lie channels last."""

    target: str
    sources: tuple[str, ...]
    before: torch.Size
    after: torch.Size
    places: Tensor  # (B, windows, C), each one's place in the space
    cotangent: Tensor | None = None

    def forward(self, input_tangents: InputTangents, theta_tangent: Tangent) -> Tensor | None:
        """The output's tangent, (k, ...); None where it is zero."""
        tangent = input_tangents[0]
        if tangent is None:
            return None
        flat = tangent.movedim(2, -1).flatten(2, -2)  # (k, B, places, C)
        picked = flat.gather(2, self.places.expand(len(flat), -1, -1, -1))
        return picked.unflatten(2, self.after[2:]).movedim(-1, 2)

    def backward(self, cotangent: Tensor) -> Sequence[Tensor]:
        """The sources' cotangents, from the output's."""
        return [self._back(cotangent.unsqueeze(0)).squeeze(0)]

    def r_backward(self, context: BackwardContext) -> Sequence[Tensor | None]:
        """Tangents of the sources' cotangents, where they are wanted."""
        return [self._back(context.r_cotangent) if context.wanted else None]

    def _back(self, cotangent: Tensor) -> Tensor:
        count, space = len(cotangent), self.before[2:]
        flat = cotangent.movedim(2, -1).flatten(2, -2)
        found = cotangent.new_zeros(count, self.before[0], space.numel(), self.before[1])
        found.scatter_add_(2, self.places.expand(count, -1, -1, -1), flat)
        return found.unflatten(2, space).movedim(-1, 2)
