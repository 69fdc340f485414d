"""Mixed second derivatives: for vectors s in θ's space, ∇ₓ ⟨s, ∇θ Σ L⟩ over a whole batch at once.

x is an input of the model or the output of one of its modules. No pair of a vector and a row costs
work of its own: rows of a batch do not touch each other, so the gradient of the sum has the rows'
own gradients side by side.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor
from torch.func import grad, jvp, vmap

from workers.engine.autodiff.derivative import Derivative, LinearMap
from workers.engine.autodiff.graph.linearized import AnalyticMixed
from workers.engine.autodiff.graph.trace import traced
from workers.engine.errors import BadParameter
from workers.engine.model.problem import Problem
from workers.engine.model.rows import Batch


class Variable(Protocol):
    """What a perturbation moves, as an extra argument of the losses."""

    def initial(self, problem: Problem, batch: Batch) -> Tensor:
        """Its value as the batch has it, (B, ...)."""
        ...

    def losses(self, problem: Problem, batch: Batch, theta: Tensor, value: Tensor) -> Tensor:
        """(B,) losses with this value in its place."""
        ...


@dataclass(frozen=True)
class InputVariable:
    """An input tensor of the model. Raises BadParameter if it is integer, or not there."""

    position: int = 0

    def initial(self, problem: Problem, batch: Batch) -> Tensor:
        """The input of the batch, (B, ...)."""
        if not 0 <= self.position < len(batch.inputs):
            raise BadParameter("input", self.position, f"the model has {len(batch.inputs)} inputs")
        value = batch.inputs[self.position]
        if not value.is_floating_point():
            raise BadParameter(
                f"input {self.position}",
                str(value.dtype),
                "integers cannot be perturbed; take the influence at the output of the module that "
                'embeds them instead, with perturb_at = "<module name>"',
            )
        return value

    def losses(self, problem: Problem, batch: Batch, theta: Tensor, value: Tensor) -> Tensor:
        """(B,) losses with this value for the input."""
        inputs = list(batch.inputs)
        inputs[self.position] = value
        return problem.losses(theta, replace(batch, inputs=tuple(inputs)))


@dataclass(frozen=True)
class ModuleVariable:
    """A shift of the output of the inner module `name`, called once per forward pass."""

    name: str

    def initial(self, problem: Problem, batch: Batch) -> Tensor:
        """Zeros (B, ...) of the output's shape. Raises NoSuchParameter, BadParameter."""
        seen: list[object] = []

        def note(output: Tensor) -> Tensor:
            seen.append(output)
            return output

        with torch.no_grad():
            self._watched(problem, batch, problem.theta, note)
        if len(seen) != 1:
            raise BadParameter(
                "perturb_at", self.name, f"is called {len(seen)} times in a forward pass, not once"
            )
        output = seen[0]
        if not isinstance(output, Tensor) or not output.is_floating_point():
            raise BadParameter("perturb_at", self.name, "its output must be one real tensor")
        if output.ndim == 0 or output.shape[0] != len(batch):
            raise BadParameter(
                "perturb_at", self.name, "the first axis of its output must be the row"
            )
        return torch.zeros_like(output)

    def losses(self, problem: Problem, batch: Batch, theta: Tensor, value: Tensor) -> Tensor:
        """(B,) losses with this value added to the module's output."""
        return self._watched(problem, batch, theta, lambda output: output + value)

    def _watched(
        self, problem: Problem, batch: Batch, theta: Tensor, change: Callable[[Tensor], Tensor]
    ) -> Tensor:
        stop = problem.watch(self.name, change)
        try:
            return problem.losses(theta, batch)
        finally:
            stop()


@dataclass(frozen=True)
class MixedReverseLoop:
    """The gradient's graph kept, a backward pass for each vector."""

    variable: Variable
    name: str = "mixed_reverse_loop"

    def prepare(self, problem: Problem, batch: Batch) -> LinearMap:
        """Takes the batch's gradient once; the result takes vectors (k, p) to (k, B, ...), the variable's shape."""
        value, gradient = _graph(self.variable, problem, batch)

        def apply(vectors: Tensor) -> Tensor:
            result = vectors.new_zeros(vectors.shape[0], *value.shape)
            if not gradient.requires_grad:
                return result
            for row, vector in zip(result, vectors, strict=True):
                (mixed,) = torch.autograd.grad(
                    gradient, value, vector, retain_graph=True, allow_unused=True
                )
                if mixed is not None:
                    row.copy_(mixed)
            return result

        return apply


@dataclass(frozen=True)
class MixedReverseBatched:
    """The gradient's graph kept, one vectorised backward pass for all vectors."""

    variable: Variable
    name: str = "mixed_reverse_batched"

    def prepare(self, problem: Problem, batch: Batch) -> LinearMap:
        """Takes the batch's gradient once; the result takes vectors (k, p) to (k, B, ...), the variable's shape."""
        value, gradient = _graph(self.variable, problem, batch)

        def apply(vectors: Tensor) -> Tensor:
            mixed = None
            if gradient.requires_grad:
                (mixed,) = torch.autograd.grad(
                    gradient,
                    value,
                    vectors,
                    retain_graph=True,
                    is_grads_batched=True,
                    allow_unused=True,
                )
            return vectors.new_zeros(vectors.shape[0], *value.shape) if mixed is None else mixed

        return apply


@dataclass(frozen=True)
class MixedForward:
    """Forward mode in θ with the vector as tangent, then one backward pass in x."""

    variable: Variable
    name: str = "mixed_forward"

    def prepare(self, problem: Problem, batch: Batch) -> LinearMap:
        """The map of vectors (k, p) to (k, B, ...), the variable's shape; it passes over the batch each time."""
        value = self.variable.initial(problem, batch)

        def slope(at: Tensor, vector: Tensor) -> Tensor:
            def total(theta: Tensor) -> Tensor:
                return self.variable.losses(problem, batch, theta, at).sum()

            return jvp(total, (problem.theta,), (vector,))[1]

        return lambda vectors: vmap(grad(slope), in_dims=(None, 0))(value, vectors)


def mixed_derivatives(problem: Problem, variable: Variable) -> list[Derivative]:
    """All mixed derivatives in this variable that may suit the model, the most robust first."""
    found: list[Derivative] = [
        MixedReverseLoop(variable),
        MixedReverseBatched(variable),
        MixedForward(variable),
    ]
    graph = traced(problem) if isinstance(variable, InputVariable) else None
    if graph is not None and isinstance(variable, InputVariable):
        found.append(AnalyticMixed(graph, variable.position))
    return found


def _graph(variable: Variable, problem: Problem, batch: Batch) -> tuple[Tensor, Tensor]:
    value = variable.initial(problem, batch).detach().clone().requires_grad_()
    theta = problem.theta.clone().requires_grad_()
    with torch.enable_grad():
        total = variable.losses(problem, batch, theta, value).sum()
        (gradient,) = torch.autograd.grad(total, theta, create_graph=True)
    return value, gradient
