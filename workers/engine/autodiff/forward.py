"""Forward over reverse, vectorised over the vectors: keeps no graph, so needs the least memory."""

from __future__ import annotations

from torch import Tensor
from torch.func import grad, jvp, vmap

from workers.engine.autodiff.derivative import Apply
from workers.engine.model.problem import Problem
from workers.engine.model.rows import Batch


class ForwardOverReverse:
    """vmap(jvp(grad))."""

    name = "forward_over_reverse"

    def prepare(self, problem: Problem, batch: Batch) -> Apply:
        """See `Product`."""
        gradient = grad(lambda theta: problem.losses(theta, batch).sum())

        def product(vector: Tensor) -> Tensor:
            return jvp(gradient, (problem.theta,), (vector,))[1]

        return vmap(product)
