"""Layers' inputs and cotangents of one row at a time, and the definitions of K-FAC and EK-FAC written out with them.

Nothing of the engine is used: torch's hooks, autograd and loops, in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

RowLoss = Callable[[Tensor, Tensor], Tensor]  # outputs and targets of one row, its axis kept


@dataclass
class Tokens:
    """Of one layer and one row: a (T, in + 1) and g (T, out)."""

    a: Tensor
    g: Tensor


def tokens_of(
    module: nn.Module, layer: nn.Module, inputs: Tensor, cotangent_of: Callable[[Tensor], Tensor]
) -> list[Tokens]:
    """Of one row, whose axis is kept: one for each use of the layer; `cotangent_of` makes the loss from the outputs."""
    seen: list[tuple[Tensor, Tensor]] = []

    def note(_: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> None:
        output.retain_grad()
        seen.append((given[0].detach(), output))

    handle = layer.register_forward_hook(note)
    module.zero_grad()
    cotangent_of(module(inputs)).backward()
    handle.remove()
    found = []
    for a, output in seen:
        assert output.grad is not None
        found.append(Tokens(*_flattened(layer, a, output.grad)))
    return found


def _flattened(layer: nn.Module, a: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    if isinstance(layer, nn.Conv2d):
        windows = F.unfold(a, layer.kernel_size, layer.dilation, layer.padding, layer.stride)  # type: ignore[arg-type]
        a, g = windows[0].T, g[0].flatten(1).T
    elif isinstance(layer, nn.Embedding):
        # Its matrix is (number, width): what a row's tokens pick stands where g does, and g where a does.
        return g[0], F.one_hot(a[0], layer.num_embeddings).double()
    else:
        a, g = a.reshape(-1, a.shape[-1]), g.reshape(-1, g.shape[-1])
    if getattr(layer, "bias", None) is not None:
        a = torch.cat([a, torch.ones(len(a), 1, dtype=a.dtype)], 1)
    return a, g


def factors(rows: Sequence[Sequence[Tokens]]) -> tuple[Tensor, Tensor]:
    """A and S: a row is a list of columns, all with the same a."""
    count = sum(len(columns[0].a) for columns in rows)
    a = sum(torch.outer(each, each) for columns in rows for each in columns[0].a)
    s = sum(torch.outer(each, each) for columns in rows for column in columns for each in column.g)
    assert isinstance(a, Tensor)
    assert isinstance(s, Tensor)
    return a / count, s / count


def kfac(rows: Sequence[Sequence[Tokens]]) -> Tensor:
    """C over (out, in + 1), row-major: S ⊗ A."""
    a, s = factors(rows)
    return torch.kron(s, a)


def ekfac(rows: Sequence[Sequence[Tokens]]) -> Tensor:
    """C over (out, in + 1), row-major: Q diag(mean of (Q_Sᵀ W Q_A)²) Qᵀ."""
    a, s = factors(rows)
    q_a, q_s = torch.linalg.eigh(a)[1], torch.linalg.eigh(s)[1]
    squares = torch.zeros(len(s), len(a), dtype=a.dtype)
    for columns in rows:
        for column in columns:
            w = torch.zeros_like(squares)
            for one_g, one_a in zip(column.g, column.a, strict=True):
                w += torch.outer(one_g, one_a)
            squares += (q_s.T @ w @ q_a) ** 2
    basis = torch.kron(q_s, q_a)
    return basis @ torch.diag((squares / len(rows)).flatten()) @ basis.T
