"""Operators whose second derivative torch has wrong, or not at all, written out in others that have it right.

Each takes the arguments of the operator's schema by name.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def _hardsigmoid(self: Tensor) -> Tensor:
    return torch.nn.functional.hardtanh(self + 3, 0.0, 6.0) / 6


def _weight_norm(v: Tensor, g: Tensor, dim: int) -> Tensor:
    return _weight_norm_interface(v, g, dim)[0]


def _weight_norm_interface(v: Tensor, g: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """torch differentiates the fused kernel's backward as if the norm were a constant."""
    others = [axis for axis in range(v.dim()) if axis != dim]
    # dim -1 stands for the norm of all of v, not for the last axis.
    norm = torch.linalg.vector_norm(v, dim=others, keepdim=dim != -1) if others else v.abs()
    return v * (g / norm), norm


def _cdist(x1: Tensor, x2: Tensor, p: float = 2.0, compute_mode: int | None = None) -> Tensor:
    return _length(x1.unsqueeze(-2) - x2.unsqueeze(-3), p)


def _pdist(self: Tensor, p: float = 2.0) -> Tensor:
    first, second = torch.triu_indices(len(self), len(self), 1, device=self.device)
    return _length(self.index_select(0, first) - self.index_select(0, second), p)


def _copy(self: Tensor, src: Tensor, non_blocking: bool = False) -> Tensor:
    return src.to(self.dtype).expand(self.shape)


def _view_as_complex(self: Tensor) -> Tensor:
    # torch's is a view, of memory that begins at an even place alone: a parameter begins anywhere in θ.
    return torch.complex(*self.unbind(-1))


def _polar(abs: Tensor, angle: Tensor) -> Tensor:
    # torch's first derivative has the wrong sign where the length is negative.
    return torch.complex(abs * angle.cos(), abs * angle.sin())


def _scatter(
    self: Tensor,
    dim: int,
    index: Tensor,
    src: Tensor | None = None,
    value: float = 0.0,
    reduce: str | None = None,
) -> Tensor:
    if src is None:
        src = torch.full(index.shape, value, dtype=self.dtype, device=self.device)
    if reduce is None:
        return torch.scatter(self, dim, index, src)
    return torch.scatter_reduce(self, dim, index, src, {"add": "sum", "multiply": "prod"}[reduce])


def _embedding_bag(
    weight: Tensor,
    indices: Tensor,
    offsets: Tensor,
    scale_grad_by_freq: bool = False,
    mode: int = 0,
    sparse: bool = False,
    per_sample_weights: Tensor | None = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> tuple[Tensor, ...]:
    """Of each bag the sum, the mean or the largest; what torch returns besides is for its own backward."""
    indices, offsets = indices.reshape(-1), offsets[: len(offsets) - include_last_offset]
    places = torch.arange(len(indices), dtype=offsets.dtype, device=indices.device)
    bags = torch.searchsorted(offsets, places, right=True) - 1
    rows = torch.nn.functional.embedding(indices, weight)
    if per_sample_weights is not None:
        rows = rows * per_sample_weights.reshape(-1, 1)
    counted = torch.ones_like(indices, dtype=torch.bool)
    if padding_idx is not None and padding_idx >= 0:
        counted = indices != padding_idx
    shape = (len(offsets), weight.shape[1])
    sizes = torch.zeros_like(offsets).index_add(0, bags, counted.to(offsets.dtype)).unsqueeze(1)
    if mode == 2:
        least = torch.full(shape, -torch.inf, dtype=rows.dtype, device=rows.device)
        rows = torch.where(counted.unsqueeze(1), rows, -torch.inf)
        found = least.scatter_reduce(0, bags.unsqueeze(1).expand_as(rows), rows, "amax")
        return torch.where(sizes > 0, found, 0.0), bags, sizes, bags
    rows = torch.where(counted.unsqueeze(1), rows, 0.0)
    found = torch.zeros(shape, dtype=rows.dtype, device=rows.device).index_add(0, bags, rows)
    return found / sizes.clamp_min(1) if mode == 1 else found, bags, sizes, bags


def _gates(
    input: Tensor, hx: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor | None, b_hh: Tensor | None
) -> tuple[Tensor, Tensor]:
    # On a device torch fuses what follows, and knows no second derivative of that.
    linear = torch.nn.functional.linear
    return linear(input, w_ih, b_ih), linear(hx, w_hh, b_hh)


def _gru_cell(
    input: Tensor, hx: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
) -> Tensor:  # fmt: skip
    given, kept = _gates(input, hx, w_ih, w_hh, b_ih, b_hh)
    (reset, update, new), (reset_h, update_h, new_h) = given.chunk(3, -1), kept.chunk(3, -1)
    update = torch.sigmoid(update + update_h)
    new = torch.tanh(new + torch.sigmoid(reset + reset_h) * new_h)
    return new + update * (hx - new)


def _lstm_cell(
    input: Tensor, hx: tuple[Tensor, Tensor], w_ih: Tensor, w_hh: Tensor,
    b_ih: Tensor | None = None, b_hh: Tensor | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    state, cell = hx
    given, kept = _gates(input, state, w_ih, w_hh, b_ih, b_hh)
    enter, forget, new, leave = (given + kept).chunk(4, -1)
    cell = torch.sigmoid(forget) * cell + torch.sigmoid(enter) * torch.tanh(new)
    return torch.sigmoid(leave) * torch.tanh(cell), cell


def _rnn_tanh_cell(
    input: Tensor, hx: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
) -> Tensor:  # fmt: skip
    given, kept = _gates(input, hx, w_ih, w_hh, b_ih, b_hh)
    return torch.tanh(given + kept)


def _rnn_relu_cell(
    input: Tensor, hx: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
) -> Tensor:  # fmt: skip
    given, kept = _gates(input, hx, w_ih, w_hh, b_ih, b_hh)
    return torch.relu(given + kept)


def _length(difference: Tensor, p: float) -> Tensor:
    """The p-norm along the last axis. A difference of zero has no derivative: 0, as torch's first one is."""
    if p == 0.0:
        return (difference != 0).to(difference.dtype).sum(-1)
    apart = (difference != 0).any(-1)
    safe = torch.where(apart.unsqueeze(-1), difference, 1.0)
    return torch.where(apart, torch.linalg.vector_norm(safe, p, dim=-1), 0.0)


REWRITTEN: dict[str, Callable[..., Any]] = {
    "hardsigmoid": _hardsigmoid,
    "_weight_norm": _weight_norm,
    "_weight_norm_interface": _weight_norm_interface,
    "cdist": _cdist,
    "_cdist_forward": _cdist,
    "pdist": _pdist,
    "_pdist_forward": _pdist,
    "copy": _copy,
    "embedding_bag": _embedding_bag,
    "_embedding_bag": _embedding_bag,
    "gru_cell": _gru_cell,
    "lstm_cell": _lstm_cell,
    "polar": _polar,
    "rnn_relu_cell": _rnn_relu_cell,
    "rnn_tanh_cell": _rnn_tanh_cell,
    "scatter": _scatter,
    "view_as_complex": _view_as_complex,
}
