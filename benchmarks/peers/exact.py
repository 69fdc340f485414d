"""The answers in float64, by plain autograd and nothing of any library compared here.

Hessian products are a kept graph of the gradient and one backward pass a vector: slow and plain.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor, nn
from torch.func import functional_call

from benchmarks.peers.problem import Rows, Trained

DENSE = 4000  # up to so many parameters the Hessian is built
CG_TOLERANCE = 1e-12
CG_STEPS = 2000
EIGEN_TOLERANCE = 1e-10


class Exact:
    """H of the mean loss over the training rows, gradients, and what follows from them."""

    def __init__(self, trained: Trained, n: int, damping: float) -> None:
        self.model = trained.model.double()
        self.rows = trained.train.first(n).to(torch.float64)
        self.damping = damping
        self.names = [name for name, _ in self.model.named_parameters()]
        self.shapes = [each.shape for each in self.model.parameters()]
        self.theta = torch.cat([each.detach().reshape(-1) for each in self.model.parameters()])
        self.theta.requires_grad_()
        self.size = self.theta.numel()
        mean = self._losses(self.rows.inputs, self.rows.targets).mean()
        (self._gradient,) = torch.autograd.grad(mean, self.theta, create_graph=True)
        self._dense: Tensor | None = None

    def _losses(self, inputs: Tensor, targets: Tensor) -> Tensor:
        pieces = torch.split(self.theta, [shape.numel() for shape in self.shapes])
        weights = {
            name: piece.view(shape)
            for name, piece, shape in zip(self.names, pieces, self.shapes, strict=True)
        }
        outputs = functional_call(self.model, weights, (inputs,))
        return nn.functional.cross_entropy(outputs, targets, reduction="none")

    def gradients(self, rows: Rows) -> Tensor:
        """(n, p), a row of data at a time."""
        rows = rows.to(torch.float64)
        result = torch.empty(len(rows.targets), self.size, dtype=torch.float64)
        for i in range(len(result)):
            loss = self._losses(rows.inputs[i : i + 1], rows.targets[i : i + 1])[0]
            (result[i],) = torch.autograd.grad(loss, self.theta)
        return result

    def product(self, vectors: Tensor) -> Tensor:
        """(H + λI) v for each row v of (k, p)."""
        rows = [
            torch.autograd.grad(self._gradient, self.theta, each, retain_graph=True)[0]
            for each in vectors
        ]
        return torch.stack(rows) + self.damping * vectors

    def solve(self, rhs: Tensor) -> Tensor:
        """(H + λI)⁻¹ b for each row b. Raises ValueError where that is not positive definite."""
        if self.size <= DENSE:
            return torch.linalg.solve(self._damped(), rhs.T).T
        x, r = torch.zeros_like(rhs), rhs.clone()
        p, rr = r.clone(), (r * r).sum(1)
        goal = (CG_TOLERANCE * rhs.norm(dim=1)) ** 2
        left = torch.arange(len(rhs))
        for _ in range(CG_STEPS):
            left = left[rr[left] > goal[left]]
            if not len(left):
                return x
            image = self.product(p[left])
            curvature = (p[left] * image).sum(1)
            if bool((curvature <= 0).any()):
                raise ValueError("H + λI is not positive definite: raise λ")
            alpha = (rr[left] / curvature)[:, None]
            x[left] += alpha * p[left]
            r[left] -= alpha * image
            after = (r[left] ** 2).sum(1)
            p[left] = r[left] + (after / rr[left])[:, None] * p[left]
            rr[left] = after
        raise ValueError(f"conjugate gradients did not converge in {CG_STEPS} steps")

    def residual(self, x: Tensor, rhs: Tensor) -> float:
        """‖b − (H + λI) x‖ / ‖b‖ over all rows."""
        return float((rhs - self.product(x)).norm() / rhs.norm())

    def largest_eigenvalue(self) -> float:
        """Of H + λI, to a per mille."""
        values = eigsh(self._operator(), 1, which="LA", tol=1e-3, return_eigenvectors=False)
        return float(values[0]) + self.damping

    def low_rank(self, rhs: Tensor, rank: int) -> Tensor:
        """V (D + λ)⁻¹ Vᵀ b with the eigenpairs of H largest in absolute value."""
        if self.size <= DENSE:
            damped = self._damped()
            values, vectors = torch.linalg.eigh(
                damped - self.damping * torch.eye(self.size, dtype=torch.float64)
            )
            kept = values.abs().argsort(descending=True)[:rank]
            values, vectors = values[kept], vectors[:, kept]
        else:
            found = eigsh(self._operator(), rank, which="LM", tol=EIGEN_TOLERANCE)
            values, vectors = (torch.from_numpy(np.ascontiguousarray(each)) for each in found)
        return (rhs @ vectors / (values + self.damping)) @ vectors.T

    def lissa(self, rhs: Tensor, steps: int, scale: float) -> Tensor:
        """The recursion over all rows: h ← b + h − (H + λI) h / scale, then h / scale."""
        h = rhs.clone()
        for _ in range(steps):
            h = rhs + h - self.product(h) / scale
        return h / scale

    def perturbation(self, factors: Tensor) -> Tensor:
        """⟨s, ∇ₓ∇θ L⟩ for every factor s and training row: (m, n, 64)."""
        inputs = self.rows.inputs.clone().requires_grad_()
        total = self._losses(inputs, self.rows.targets).sum()
        (gradient,) = torch.autograd.grad(total, self.theta, create_graph=True)
        rows = [torch.autograd.grad(gradient, inputs, s, retain_graph=True)[0] for s in factors]
        return torch.stack(rows)

    def _operator(self) -> LinearOperator:
        def undamped(vector: np.ndarray) -> np.ndarray:
            v = torch.from_numpy(vector.reshape(1, -1).copy())
            return (self.product(v) - self.damping * v)[0].numpy()

        return LinearOperator((self.size, self.size), matvec=undamped, dtype=np.float64)

    def _damped(self) -> Tensor:
        if self._dense is None:
            matrix = self.product(torch.eye(self.size, dtype=torch.float64))
            self._dense = (matrix + matrix.T) / 2
        return self._dense
