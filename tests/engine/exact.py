"""Influences the slow way, by torch.autograd.functional alone: nothing of the engine is used."""

from __future__ import annotations

from collections.abc import Callable
from fnmatch import fnmatchcase
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from .models import Case


class Exact:
    """Gradients (a row at a time) and Hessian of a case, in float64."""

    def __init__(self, case: Case, module: nn.Module | None = None) -> None:
        self.case = case
        self.module = module or case.module
        self.shapes = {
            name: value.shape
            for name, value in self.module.named_parameters()
            if any(fnmatchcase(name, glob) for glob in case.parameters)
        }
        named = dict(self.module.named_parameters())
        self.theta = torch.cat([named[name].detach().reshape(-1) for name in self.shapes])

    def outputs(self, theta: Tensor, inputs: tuple[Tensor, ...]) -> Tensor:
        """Of a batch."""
        weights, offset = {}, 0
        for name, shape in self.shapes.items():
            weights[name] = theta[offset : offset + shape.numel()].view(shape)
            offset += shape.numel()
        return functional_call(self.module, weights, inputs)

    def loss(self, theta: Tensor, inputs: tuple[Tensor, ...], target: Tensor) -> Tensor:
        """Of one row, given without a batch axis."""
        output = self.outputs(theta, tuple(each[None] for each in inputs))
        return self.case.reference_loss(output, target[None])

    def row(self, index: int) -> Callable[[Tensor], Tensor]:
        inputs = tuple(each[index] for each in self.case.inputs)
        return lambda theta: self.loss(theta, inputs, self.case.targets[index])

    def gradients(self, rows: range) -> Tensor:
        return torch.stack(
            [torch.autograd.functional.jacobian(self.row(each), self.theta) for each in rows]
        )

    @property
    def test_rows(self) -> range:
        return range(self.case.test_count)

    @property
    def train_rows(self) -> range:
        return range(self.case.test_count, len(self.case.targets))

    @cached_property
    def hessian(self) -> Tensor:
        # The reference losses are means over all they are given, so this is the mean over rows.
        rows = slice(self.train_rows.start, None)
        inputs = tuple(each[rows] for each in self.case.inputs)

        def mean_loss(theta: Tensor) -> Tensor:
            return self.case.reference_loss(self.outputs(theta, inputs), self.case.targets[rows])

        with sdpa_kernel([SDPBackend.MATH]):
            return torch.autograd.functional.hessian(mean_loss, self.theta)

    def factors(self, damping: float) -> Tensor:
        damped = self.hessian + damping * torch.eye(len(self.theta), dtype=torch.float64)
        return torch.linalg.solve(damped, self.gradients(self.test_rows).T).T

    def up(self, damping: float) -> Tensor:
        return self.factors(damping) @ self.gradients(self.train_rows).T

    def perturbation(self, factors: Tensor, position: int = 0) -> Tensor:
        """Differentiates each training row's gradient in its input, an entry at a time."""
        blocks = []
        for index in self.train_rows:
            inputs = [each[index] for each in self.case.inputs]

            def slopes(x: Tensor, inputs: list[Tensor] = inputs, index: int = index) -> Tensor:
                theta = self.theta.clone().requires_grad_()
                given = tuple(x if i == position else each for i, each in enumerate(inputs))
                loss = self.loss(theta, given, self.case.targets[index])
                return factors @ torch.autograd.grad(loss, theta, create_graph=True)[0]

            with sdpa_kernel([SDPBackend.MATH]):
                blocks.append(torch.autograd.functional.jacobian(slopes, inputs[position]))
        return torch.stack(blocks, 1)


def relative(found: Tensor, exact: Tensor) -> float:
    """Largest error over the largest entry."""
    return float((found.double() - exact).abs().max() / exact.abs().max())


def worst_row(found: Tensor, exact: Tensor) -> float:
    """The largest relative error that a single row has, each against its own norm."""
    errors = torch.linalg.vector_norm((found.double() - exact).flatten(1), dim=1)
    return float((errors / torch.linalg.vector_norm(exact.flatten(1), dim=1)).max())
