"""Influences by the formula alone: torch.autograd.functional, a row at a time, in float64. Nothing of ours is used."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.autograd.functional import hessian, jacobian
from torch.func import functional_call

Loss = Callable[[Tensor, Tensor], Tensor]  # outputs and targets of some rows to their mean loss


@dataclass(frozen=True)
class Formula:
    """A model with its loss, and the rows that its Hessian is over."""

    module: nn.Module
    loss: Loss
    x: Tensor
    y: Tensor
    damping: float

    @cached_property
    def _double(self) -> nn.Module:
        return copy.deepcopy(self.module).double()

    @cached_property
    def _theta(self) -> Tensor:
        return torch.cat([each.detach().flatten() for each in self._double.parameters()])

    def _mean_loss(self, theta: Tensor, x: Tensor, y: Tensor) -> Tensor:
        named = dict(self._double.named_parameters())
        pieces = theta.split([each.numel() for each in named.values()])
        weights = {
            name: piece.view_as(like)
            for piece, (name, like) in zip(pieces, named.items(), strict=True)
        }
        return self.loss(functional_call(self._double, weights, (x,)), y)

    @cached_property
    def damped(self) -> Tensor:
        """H + λI, (p, p)."""
        found = hessian(lambda theta: self._mean_loss(theta, self.x, self.y), self._theta)
        assert isinstance(found, Tensor)
        return found + self.damping * torch.eye(len(found), dtype=torch.float64)

    def gradient(self, x: Tensor, y: Tensor) -> Tensor:
        """Of one row, given without a batch axis; differentiable in x."""
        found = jacobian(
            lambda theta: self._mean_loss(theta, x[None], y[None]), self._theta, create_graph=True
        )
        assert isinstance(found, Tensor)
        return found

    def gradients(self, x: Tensor, y: Tensor) -> Tensor:
        """(rows, p)."""
        pairs = zip(x, y, strict=True)
        return torch.stack([self.gradient(*pair).detach() for pair in pairs])

    def factors(self, x_test: Tensor, y_test: Tensor) -> Tensor:
        """(H + λI)⁻¹ ∇L(z_test), (m, p)."""
        return torch.linalg.solve(self.damped, self.gradients(x_test, y_test).T).T

    def up(self, factors: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """(m, n)."""
        return factors @ self.gradients(x, y).T

    def perturbation(self, factors: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """(m, n, *input shape)."""
        pairs = zip(x, y, strict=True)
        columns = [
            jacobian(lambda moved, y=label: factors @ self.gradient(moved, y), row)  # type: ignore[misc]
            for row, label in pairs
        ]
        return torch.stack([each for each in columns if isinstance(each, Tensor)], dim=1)
