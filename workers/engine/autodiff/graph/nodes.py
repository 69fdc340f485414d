"""Nodes of a model's graph on one batch, each with the derivatives of its own operator.

With R the derivative along the vectors v: R of a node's output from R of its inputs, the cotangent
δ of its inputs from that of its output, and R of the same with what v's own share H v gets.
The vectors are the first axis of every R, before the axes of the node's value: (k, B, ...). So the
products with each layer's weights are one large matrix product, or one batch of them, a term.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

import torch
from torch import Tensor
from torch.func import jvp, vjp, vmap

from workers.engine.autodiff.derivative import Sums
from workers.engine.model.parameters import ParameterSlice


@dataclass(frozen=True)
class Piece:
    """A cotangent that is zero but at these entries of a tensor of this shape."""

    value: Tensor
    index: tuple[int | slice, ...]
    shape: tuple[int, ...]


class Cotangents:
    """The cotangents, or R of them, that have arrived at nodes so far."""

    def __init__(self, reaching: set[str], found: dict[str, Tensor]) -> None:
        self._reaching, self._found = reaching, found
        self._pieced: set[str] = set()  # of tensors that nobody else has

    def add(self, names: Sequence[str], found: Sequence[Tensor | Piece | None]) -> None:
        """Add what has arrived to each of these nodes' cotangents, where they are wanted."""
        for name, each in zip(names, found, strict=True):
            if each is None or name not in self._reaching:
                continue
            if isinstance(each, Piece):
                if name not in self._pieced:
                    whole = each.value.new_zeros(each.shape)
                    self._found[name] = whole + self._found[name] if name in self._found else whole
                    self._pieced.add(name)
                self._found[name][each.index].add_(each.value)
            else:
                known = self._found.get(name)
                self._found[name] = each if known is None else known + each
                self._pieced.discard(name)

    def pop(self, name: str) -> Tensor | None:
        """What has arrived, None if nothing has."""
        return self._found.pop(name, None)


InputTangents = Sequence[Tensor | None]  # R of each input, None where it is zero


@dataclass(frozen=True)
class Tangent:
    """The vectors (k, p) that θ moves along; `names` are the parameters in them that are not zero."""

    vectors: Tensor
    names: frozenset[str] | None = None  # None: all

    def __len__(self) -> int:
        return len(self.vectors)

    def of(self, place: ParameterSlice | None) -> Tensor | None:
        """The tangent of one parameter, (k, size), a view; None where it is zero."""
        if place is None or (self.names is not None and place.name not in self.names):
            return None
        return part_of(self.vectors, place)


@dataclass(frozen=True)
class BackwardContext:
    """What a node knows when R of its cotangent arrives."""

    theta_tangent: Tangent
    input_tangents: InputTangents
    output_tangent: Tensor | None  # R of its output
    r_cotangent: Tensor  # R of δ, (k, ...)
    sums: Sums | None  # H v so far, None where only what arrives at the inputs is wanted
    wanted: bool  # whether R of the sources' cotangents is


class Node(Protocol):
    """A node on one batch; `sources` are the nodes it takes, `target` the node it is."""

    target: str
    sources: tuple[str, ...]
    cotangent: Tensor | None

    def forward(self, input_tangents: InputTangents, theta_tangent: Tangent) -> Tensor | None:
        """R of the output, None where it is zero."""
        ...

    def backward(self, cotangent: Tensor) -> Sequence[Tensor]:
        """The cotangent of each source, from that of the output."""
        ...

    def r_backward(self, context: BackwardContext) -> Sequence[Tensor | Piece | None]:
        """R of the cotangent of each source if wanted; adds the node's share to the sums."""
        ...


@dataclass
class Elementwise:
    """σ, each entry for itself."""

    ROWS: ClassVar = ("first", "second", "cotangent", "bend")

    target: str
    sources: tuple[str, ...]
    first: Tensor  # σ′(z), (B, ...)
    second: Tensor | None  # σ″(z), None where it is zero everywhere
    cotangent: Tensor | None = None  # ∂ΣL/∂σ(z), (B, ...)
    bend: Tensor | None = None  # δ σ″

    def forward(self, input_tangents: InputTangents, theta_tangent: Tangent) -> Tensor | None:
        """The output's tangent, (k, ...); None where it is zero."""
        return None if input_tangents[0] is None else input_tangents[0] * self.first

    def backward(self, cotangent: Tensor) -> Sequence[Tensor]:
        """The sources' cotangents, from the output's."""
        if self.second is not None:
            self.bend = cotangent * self.second
        return [cotangent * self.first]

    def r_backward(self, context: BackwardContext) -> Sequence[Tensor | None]:
        """Tangents of the sources' cotangents, where they are wanted."""
        if not context.wanted:
            return [None]
        through = context.r_cotangent * self.first
        if self.bend is not None and context.input_tangents[0] is not None:
            through.addcmul_(context.input_tangents[0], self.bend)
        return [through]


@dataclass
class Sum:
    """Addition or subtraction of nodes."""

    target: str
    sources: tuple[str, ...]
    shapes: tuple[torch.Size, ...]  # of the sources
    signs: tuple[float, ...]
    output: torch.Size
    cotangent: Tensor | None = None

    def forward(self, input_tangents: InputTangents, theta_tangent: Tangent) -> Tensor | None:
        """The output's tangent, (k, ...); None where it is zero."""
        total: Tensor | None = None
        for sign, tangent in zip(self.signs, input_tangents, strict=True):
            if tangent is None:
                continue
            missing = len(self.output) - tangent.ndim + 1
            tangent = tangent[(slice(None), *(None,) * missing)]
            tangent = tangent if sign == 1.0 else sign * tangent
            total = tangent if total is None else total + tangent
        return None if total is None else total.expand(len(total), *self.output)

    def backward(self, cotangent: Tensor) -> Sequence[Tensor]:
        """The sources' cotangents, from the output's."""
        return self._shared(cotangent, 0)

    def r_backward(self, context: BackwardContext) -> Sequence[Tensor | None]:
        """Tangents of the sources' cotangents, where they are wanted."""
        return (
            self._shared(context.r_cotangent, 1) if context.wanted else [None] * len(self.sources)
        )

    def _shared(self, cotangent: Tensor, leading: int) -> list[Tensor]:
        return [
            summed_to(cotangent if sign == 1.0 else sign * cotangent, leading, shape)
            for shape, sign in zip(self.shapes, self.signs, strict=True)
        ]


@dataclass
class Concatenation:
    """Nodes, and values that don't move, one after the other along an axis."""

    target: str
    sources: tuple[str, ...]
    ranges: tuple[tuple[int, int], ...]  # of each source along the axis, [first, last)
    axis: int  # from the end
    output: torch.Size
    cotangent: Tensor | None = None

    def forward(self, input_tangents: InputTangents, theta_tangent: Tangent) -> Tensor | None:
        """The output's tangent, (k, ...); None where it is zero."""
        known = [each for each in input_tangents if each is not None]
        if not known:
            return None
        result = known[0].new_zeros(len(theta_tangent), *self.output)
        for (first, last), tangent in zip(self.ranges, input_tangents, strict=True):
            if tangent is not None:
                result.narrow(self.axis, first, last - first).copy_(tangent)
        return result

    def backward(self, cotangent: Tensor) -> Sequence[Tensor]:
        """The sources' cotangents, from the output's."""
        return [cotangent.narrow(self.axis, first, last - first) for first, last in self.ranges]

    def r_backward(self, context: BackwardContext) -> Sequence[Tensor | None]:
        """Tangents of the sources' cotangents, where they are wanted."""
        if not context.wanted:
            return [None] * len(self.sources)
        return list(self.backward(context.r_cotangent))


@dataclass
class Linear:
    """Any function of one node that is linear in it and has no parameters: a view, a mean.

    `batched` is the same function of all vectors at once, where it is known. `index`: the function
    takes these entries, so that the cotangents of all that do fill one tensor.
    """

    target: str
    sources: tuple[str, ...]
    function: Callable[[Tensor], Tensor]
    before: torch.Size
    batched: Callable[[Tensor], Tensor] | None = None
    index: tuple[int | slice, ...] | None = None
    diagonal: bool = False
    cotangent: Tensor | None = None

    def forward(self, input_tangents: InputTangents, theta_tangent: Tangent) -> Tensor | None:
        """The output's tangent, (k, ...); None where it is zero."""
        return None if input_tangents[0] is None else self.over_vectors(input_tangents[0])

    def over_vectors(self, tangent: Tensor) -> Tensor:
        """The function of each of k tensors, (k, ...)."""
        return (self.batched or vmap(self.function))(tangent)

    def backward(self, cotangent: Tensor) -> Sequence[Tensor]:
        """The sources' cotangents, from the output's."""
        return [adjoint(self.function, self.before, cotangent)]

    def r_backward(self, context: BackwardContext) -> Sequence[Piece | Tensor | None]:
        """Tangents of the sources' cotangents, where they are wanted."""
        if not context.wanted:
            return [None]
        before = (len(context.r_cotangent), *self.before)
        if self.index is not None:
            return [Piece(context.r_cotangent, (slice(None), *self.index), before)]
        if self.diagonal:
            return [self.over_vectors(context.r_cotangent)]
        return [adjoint(self.over_vectors, before, context.r_cotangent)]


@dataclass
class Smooth:
    """Any function of nodes without parameters: torch's forward over reverse, of this node alone."""

    target: str
    sources: tuple[str, ...]
    function: Callable[..., Tensor]
    values: tuple[Tensor, ...]
    cotangent: Tensor | None = field(default=None)

    def forward(self, input_tangents: InputTangents, theta_tangent: Tangent) -> Tensor | None:
        """The output's tangent, (k, ...); None where it is zero."""
        if all(each is None for each in input_tangents):
            return None

        def along(*tangents: Tensor) -> Tensor:
            moved: Tensor = jvp(self.function, self._at(), tangents)[1]
            return moved

        result: Tensor = vmap(along)(*self._filled(input_tangents, len(theta_tangent)))
        return result

    def backward(self, cotangent: Tensor) -> Sequence[Tensor]:
        """The sources' cotangents, from the output's."""
        pulled: tuple[Tensor, ...] = vjp(self.function, *self.values)[1](cotangent)
        return pulled

    def r_backward(self, context: BackwardContext) -> Sequence[Tensor | None]:
        """Tangents of the sources' cotangents, where they are wanted."""
        if not context.wanted:
            return [None] * len(self.sources)

        def pulled(*given: Tensor) -> tuple[Tensor, ...]:
            cotangents: tuple[Tensor, ...] = vjp(self.function, *given[:-1])[1](given[-1])
            return cotangents

        def along(*tangents: Tensor) -> tuple[Tensor, ...]:
            moved: tuple[Tensor, ...] = jvp(pulled, (*self._at(), cotangent), tangents)[1]
            return moved

        assert self.cotangent is not None
        cotangent = _with_memory(self.cotangent)
        results: tuple[Tensor, ...] = vmap(along)(
            *self._filled(context.input_tangents, len(context.r_cotangent)), context.r_cotangent
        )
        return results

    def _at(self) -> tuple[Tensor, ...]:
        return tuple(map(_with_memory, self.values))

    def _filled(self, input_tangents: InputTangents, count: int) -> list[Tensor]:
        return [
            value.new_zeros(count, *value.shape) if each is None else each
            for value, each in zip(self.values, input_tangents, strict=True)
        ]


def _with_memory(value: Tensor) -> Tensor:
    """An expanded tensor with memory of its own: torch lays tangents out as their primals, and can't write to those."""
    return value.contiguous() if 0 in value.stride() else value


def adjoint(
    function: Callable[[Tensor], Tensor], before: Sequence[int], cotangent: Tensor
) -> Tensor:
    """The transpose of a linear function of a tensor of this shape, applied to the cotangent."""
    anywhere = cotangent.new_empty(before).requires_grad_()  # linear: its value does not matter
    with torch.enable_grad():
        value = function(anywhere)
    (found,) = torch.autograd.grad(value, anywhere, cotangent)
    return found


def lying_as(value: Tensor, other: Tensor) -> Tensor:
    """The value with its entries in memory in the order of the other's, which has the same shape."""
    if value.stride() == other.stride():
        return value
    return torch.empty_like(other, requires_grad=False).copy_(value)


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


def given_places(*places: ParameterSlice | None) -> tuple[ParameterSlice, ...]:
    """Those that are selected."""
    return tuple(each for each in places if each is not None)


def part_of(vectors: Tensor, place: ParameterSlice) -> Tensor:
    """The vectors' entries for this parameter, (k, size): a view."""
    return vectors[:, place.offset : place.offset + place.size]
