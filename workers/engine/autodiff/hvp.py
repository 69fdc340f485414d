"""Products with the Hessian by torch's own transformations.

Reverse over reverse, which differentiates the gradient's graph once more, is the most robust: it
works for whatever has a second derivative, and keeps its digits through softmax and layer norm,
where forward mode loses some in float32. A gradient whose graph does not lead back to θ is an
error, never a zero: an operator without a second derivative shows as that.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.func import grad, jvp, vmap

from workers.engine.autodiff.derivative import LinearMap
from workers.engine.model.problem import Problem
from workers.engine.model.rows import Batch


def gradient_graph(problem: Problem, batch: Batch) -> tuple[Tensor, Tensor]:
    """θ and the gradient (p,) of the batch's summed loss, with the graph that leads back to θ."""
    theta = problem.theta.clone().requires_grad_()
    with torch.enable_grad():
        total = problem.losses(theta, batch).sum()
        (gradient,) = torch.autograd.grad(total, theta, create_graph=True)
    return theta, gradient


class ReverseLoop:
    """A backward pass for each vector."""

    name = "reverse_loop"

    def prepare(self, problem: Problem, batch: Batch) -> LinearMap:
        """Takes the gradient of the batch once; the result takes vectors (k, p) to H v, (k, p)."""
        theta, gradient = gradient_graph(problem, batch)

        def apply(vectors: Tensor) -> Tensor:
            result = torch.zeros_like(vectors)
            if not gradient.requires_grad:  # the loss is linear in θ
                return result
            for row, vector in zip(result, vectors, strict=True):
                (product,) = torch.autograd.grad(gradient, theta, vector, retain_graph=True)
                row.copy_(product)
            return result

        return apply


class ReverseBatched:
    """One vectorised backward pass for all vectors."""

    name = "reverse_batched"

    def prepare(self, problem: Problem, batch: Batch) -> LinearMap:
        """Takes the gradient of the batch once; the result takes vectors (k, p) to H v, (k, p)."""
        theta, gradient = gradient_graph(problem, batch)

        def apply(vectors: Tensor) -> Tensor:
            if not gradient.requires_grad:
                return torch.zeros_like(vectors)
            (product,) = torch.autograd.grad(
                gradient, theta, vectors, retain_graph=True, is_grads_batched=True
            )
            return product

        return apply


class ForwardOverReverse:
    """Forward mode over the gradient, for all vectors at once: vmap(jvp(grad))."""

    name = "forward_over_reverse"

    def prepare(self, problem: Problem, batch: Batch) -> LinearMap:
        """The map of vectors (k, p) to H v, (k, p); every application passes over the batch anew."""
        gradient = grad(lambda theta: problem.losses(theta, batch).sum())

        def product(vector: Tensor) -> Tensor:
            return jvp(gradient, (problem.theta,), (vector,))[1]

        return vmap(product)
