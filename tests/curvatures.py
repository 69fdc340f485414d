"""The one table of curvature kinds, each with its matrix by plain torch: tests of all kinds take rows from here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from tests.engine.exact import Exact
from upweight.schema.curvature import KINDS as FACTS
from upweight.schema.curvature import KindFacts

# From the reference and the labels of its training rows (or None: the data's) to the matrix.
Reference = Callable[[Exact, Tensor | None], Tensor]


@dataclass(frozen=True)
class Row:
    """A kind, as a request has it."""

    kind: str
    matrix: Reference

    @property
    def facts(self) -> KindFacts:
        """What the contract says of it."""
        return FACTS[self.kind]  # type: ignore[index]


def hessian(exact: Exact, labels: Tensor | None = None) -> Tensor:
    """∇² of the mean loss."""
    return exact.hessian


def gauss_newton(exact: Exact, labels: Tensor | None = None) -> Tensor:
    """Jᵀ S J of each row in turn, by torch.autograd.functional."""
    total = torch.zeros(2 * [len(exact.theta)], dtype=torch.float64)
    for index in exact.train_rows:
        inputs = tuple(each[index : index + 1] for each in exact.case.inputs)
        target = exact.case.targets[index : index + 1]

        def outputs(theta: Tensor, inputs: tuple[Tensor, ...] = inputs) -> Tensor:
            return exact.outputs(theta, inputs)

        def loss(output: Tensor, target: Tensor = target) -> Tensor:
            return exact.case.reference_loss(output, target)

        found = outputs(exact.theta)
        jacobian = torch.autograd.functional.jacobian(outputs, exact.theta)
        jacobian = jacobian.reshape(found.numel(), -1)
        bend = torch.autograd.functional.hessian(loss, found.detach()).reshape(2 * [found.numel()])
        total += jacobian.T @ bend @ jacobian
    return total / len(exact.train_rows)


def second_moment(exact: Exact, labels: Tensor | None = None) -> Tensor:
    """The mean of g gᵀ, a row at a time, with other labels where they are given."""
    gradients = []
    for place, index in enumerate(exact.train_rows):
        inputs = tuple(each[index] for each in exact.case.inputs)
        label = exact.case.targets[index] if labels is None else labels[place]

        def loss(
            theta: Tensor, inputs: tuple[Tensor, ...] = inputs, label: Tensor = label
        ) -> Tensor:
            return exact.loss(theta, inputs, label)

        gradients.append(torch.autograd.functional.jacobian(loss, exact.theta))
    found = torch.stack(gradients)
    return found.T @ found / len(found)


CURVATURES = {
    row.kind: row
    for row in (
        Row("hessian", hessian),
        Row("gauss_newton", gauss_newton),
        Row("fisher", second_moment),
        Row("empirical_fisher", second_moment),
    )
}
