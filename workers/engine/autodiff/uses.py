"""The ways in which a layer uses its parameters on a batch, and what each adds to a row's gradient."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from workers.engine.autodiff.graph.nodes import summed_to


@dataclass(frozen=True)
class MatrixUse:
    """One use of a matrix W (out, in) on a batch: z = a Wᵀ + b, for each group of channels.

    The tokens of a convolution are the places of its output, and its inputs the windows there.
    """

    weight: str
    bias: str | None
    transposed: bool  # whether the parameter is (in, out)
    inputs: Callable[[int], Tensor]  # rows -> a, (B, T, groups, in)
    shaped: Callable[[Tensor, int], Tensor]  # cotangent, rows -> g, (B, T, groups, out)
    groups: int = 1

    @property
    def names(self) -> tuple[str, ...]:
        """Of its parameters."""
        return (self.weight,) if self.bias is None else (self.weight, self.bias)


@dataclass(frozen=True)
class LookupUse:
    """One use of an embedding: rows of W (number, width) by their numbers; the row `padding` never learns."""

    weight: str
    tokens: Tensor  # (B, ...), int64
    padding: int | None

    @property
    def names(self) -> tuple[str, ...]:
        """Of its parameters."""
        return (self.weight,)


@dataclass(frozen=True)
class BroadcastUse:
    """One use of a factor or a shift that is broadcast over a row: z = x γ + β; γ alone where β is None, and so on.

    `shape`: of the parameters as they meet the row. `inputs` (B, ...) are x, None for a shift alone.
    """

    weight: str | None
    bias: str | None
    shape: tuple[int, ...]
    inputs: Tensor | None

    @property
    def names(self) -> tuple[str, ...]:
        """Of its parameters."""
        return tuple(each for each in (self.weight, self.bias) if each is not None)


Use = MatrixUse | LookupUse | BroadcastUse


def row_gradient(use: Use, name: str, shape: Sequence[int], cotangent: Tensor, rows: int) -> Tensor:
    """What this use adds to each row's gradient of one of its parameters: (B, size)."""
    if isinstance(use, MatrixUse):
        g = use.shaped(cotangent, rows)
        if name == use.bias:
            return g.sum(1).flatten(1)
        found = torch.einsum("btgo,btgi->bgoi", g, use.inputs(rows))
        return (found.squeeze(1).mT if use.transposed else found).reshape(rows, -1)
    if isinstance(use, LookupUse):
        tokens, g = learnt_tokens(use, cotangent, rows)
        result = g.new_zeros(rows, *shape)
        result.scatter_add_(1, tokens.unsqueeze(-1).expand(g.shape), g)
        return result.flatten(1)
    share = cotangent if name == use.bias or use.inputs is None else cotangent * use.inputs
    if len(share) != rows:
        share = share.unflatten(0, (rows, -1))
    return summed_to(share, 1, _padded(use.shape, share)).reshape(rows, -1)


def _padded(shape: tuple[int, ...], share: Tensor) -> tuple[int, ...]:
    """The parameter's shape against a row's, its axes all there."""
    whole = (1,) * (share.ndim - len(shape)) + shape
    return whole[1:]


def learnt_tokens(use: LookupUse, cotangent: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    """Numbers (B, T) and cotangents (B, T, width), zero where the number is the padding's."""
    tokens = use.tokens.reshape(rows, -1)
    g = cotangent.reshape(rows, tokens.shape[1], -1)
    if use.padding is not None:
        g = g * tokens.ne(use.padding).unsqueeze(-1).to(g.dtype)
    return tokens, g


def half(use: Use, whole: int) -> Use:
    """The use on the first half of a batch whose rows were given twice."""
    if isinstance(use, MatrixUse):
        inputs, rows = use.inputs, whole // 2
        return replace(use, inputs=lambda _: inputs(whole)[:rows])
    if isinstance(use, LookupUse):
        return replace(use, tokens=use.tokens[: len(use.tokens) // 2])
    if use.inputs is None:
        return use
    return replace(use, inputs=use.inputs[: len(use.inputs) // 2])
