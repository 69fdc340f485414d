"""Products with Σ Jᵢᵀ Sᵢ Jᵢ by torch's own transformations.

J is the derivative of the model's outputs and S the loss's Hessian in them: the Gauss-Newton matrix. Or J is the
gradient of each row's loss, and S is 1: the second moment of gradients. The loops need no forward mode: J v is the
derivative along v of Jᵀ w, which is linear in w.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import jvp, vjp, vmap

from workers.engine.autodiff.derivative import LinearMap
from workers.engine.errors import BadParameter
from workers.engine.model.losses.per_row import one_tensor
from workers.engine.model.problem import Problem
from workers.engine.model.rows import Batch

Function = Callable[[Tensor], Tensor]  # of θ


class GaussNewtonLoop:
    """Three backward passes for each vector."""

    name = "reverse_loop"

    def prepare(self, problem: Problem, batch: Batch) -> LinearMap:
        """Runs the model on the batch once; the result takes vectors (k, p) to G v, (k, p)."""
        given = batch.at_least_two()
        function, middle = _outputs(problem, given)
        return _of_given(_looped(problem, function, middle), batch)


class GaussNewtonForward:
    """Forward mode to the outputs and a pass back, for all vectors at once."""

    name = "forward_reverse"

    def prepare(self, problem: Problem, batch: Batch) -> LinearMap:
        """The map of vectors (k, p) to G v, (k, p); every application passes over the batch anew."""
        given = batch.at_least_two()
        function, middle = _outputs(problem, given)
        return _of_given(_forward(problem, function, middle), batch)


class GradientLoop:
    """Two backward passes for each vector."""

    name = "reverse_loop"

    def prepare(self, problem: Problem, batch: Batch) -> LinearMap:
        """Takes the losses of the batch once; the result takes vectors (k, p) to Σ g gᵀ v, (k, p)."""
        return _looped(problem, lambda theta: problem.losses(theta, batch), _same)


class GradientForward:
    """Forward mode to the losses and a pass back, for all vectors at once."""

    name = "forward_reverse"

    def prepare(self, problem: Problem, batch: Batch) -> LinearMap:
        """The map of vectors (k, p) to Σ g gᵀ v, (k, p); every application passes over the batch anew."""
        return _forward(problem, lambda theta: problem.losses(theta, batch), _same)


def _same(value: Tensor) -> Tensor:
    return value


def _outputs(problem: Problem, batch: Batch) -> tuple[Function, Function]:
    """The model's outputs as a function of θ, and S as a map of their tangents. Raises BadParameter for several."""

    def function(theta: Tensor) -> Tensor:
        return one_tensor(problem.outputs(theta, batch))

    with torch.no_grad():
        at = function(problem.theta)
    if not at.is_floating_point():
        raise BadParameter("outputs", at.dtype, "must be real numbers")
    at.requires_grad_()
    with torch.enable_grad():
        (cotangent,) = torch.autograd.grad(
            problem.loss(at, batch.targets).sum(), at, create_graph=True
        )

    def middle(tangent: Tensor) -> Tensor:
        if not cotangent.requires_grad:  # the loss is linear in the outputs
            return torch.zeros_like(tangent)
        return torch.autograd.grad(cotangent, at, tangent, retain_graph=True)[0]

    return function, middle


def _looped(problem: Problem, function: Function, middle: Function) -> LinearMap:
    theta = problem.theta.clone().requires_grad_()
    with torch.enable_grad():
        values = function(theta)
        along = torch.zeros_like(values, requires_grad=True)
        pulled = (
            torch.autograd.grad(values, theta, along, create_graph=True)[0]
            if values.requires_grad
            else None
        )

    def apply(vectors: Tensor) -> Tensor:
        result = torch.zeros_like(vectors)
        if pulled is None:  # the values do not depend on θ
            return result
        for row, vector in zip(result, vectors, strict=True):
            (moved,) = torch.autograd.grad(pulled, along, vector, retain_graph=True)
            row.copy_(torch.autograd.grad(values, theta, middle(moved), retain_graph=True)[0])
        return result

    return apply


def _forward(problem: Problem, function: Function, middle: Function) -> LinearMap:
    def apply(vectors: Tensor) -> Tensor:
        moved = vmap(lambda vector: jvp(function, (problem.theta,), (vector,))[1])(vectors)
        bent = torch.stack([middle(each) for each in moved])
        back = vjp(function, problem.theta)[1]
        found: Tensor = vmap(lambda each: back(each)[0])(bent)
        return found

    return apply


def _of_given(apply: LinearMap, batch: Batch) -> LinearMap:
    """A single row was given twice, and counts once."""
    return apply if len(batch) > 1 else lambda vectors: apply(vectors) / 2
