"""The loss at the model's outputs: cotangents, and the matrix of each row in them.

Of a row's loss, ∇²θ L = Jᵀ S J + Σ δᵢ ∇²θ fᵢ with J the derivative of the outputs f, δ and S the loss's gradient and
Hessian in them. Curvatures differ in S, and in whether the model's own curvature, the second term, is among them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from workers.engine.autodiff.derivative import LinearMap
from workers.engine.autodiff.graph.roots import roots
from workers.engine.model.losses import Loss
from workers.engine.model.rows import Targets

# Up to this many outputs a row's (c, c) Hessian of the loss is formed once and applied by a product.
FORMED_OUTPUTS = 64


@dataclass(frozen=True)
class FormedHessian:
    """The Hessian of each row's loss in its c outputs, as a map of their tangents."""

    ROWS: ClassVar = ("matrices",)

    matrices: Tensor  # (B, c, c)

    @property
    def row_bytes(self) -> int:
        """Of a row's matrix."""
        return self.matrices[0].nbytes

    def __call__(self, tangent: Tensor) -> Tensor:
        """(k, B, ...) -> (k, B, ...)."""
        # The vectors last: with them as rows of small products it takes twice as long.
        flat = tangent.flatten(2).permute(1, 2, 0)  # (B, c, k)
        found = torch.bmm(self.matrices.mT, flat)
        return found.permute(2, 0, 1).contiguous().view(tangent.shape)


@dataclass(frozen=True)
class OuterProduct:
    """δ δᵀ of each row's cotangent, as a map of the outputs' tangents."""

    ROWS: ClassVar = ("cotangent",)

    cotangent: Tensor  # (B, ...)

    @property
    def row_bytes(self) -> int:
        """Of a row's cotangent."""
        return self.cotangent[0].nbytes

    def __call__(self, tangent: Tensor) -> Tensor:
        """(k, B, ...) -> (k, B, ...)."""
        weights = (tangent * self.cotangent).flatten(2).sum(2)  # (k, B)
        return weights.view(*weights.shape, *(1,) * (tangent.ndim - 2)) * self.cotangent


def output_derivatives(loss: Loss, outputs: Tensor, targets: Targets) -> tuple[Tensor, LinearMap]:
    """δ (B, ...) and what takes R of the outputs (k, B, ...) to R of δ."""
    width = outputs[0].numel()
    if width <= FORMED_OUTPUTS:
        cotangent, formed = formed_curvature(loss, outputs, targets)
        return cotangent, FormedHessian(formed)
    at = outputs.detach().requires_grad_()
    with torch.enable_grad():
        total = loss(at, targets).sum()
        (cotangent,) = torch.autograd.grad(total, at, create_graph=True)
    if not cotangent.requires_grad:  # a loss linear in the outputs
        return cotangent, torch.zeros_like
    return cotangent.detach(), lambda tangent: torch.autograd.grad(
        cotangent, at, tangent, retain_graph=True, is_grads_batched=True
    )[0]


def output_cotangents(loss: Loss, outputs: Tensor, targets: Targets) -> Tensor:
    """δ (B, ...) alone."""
    at = outputs.detach().requires_grad_()
    with torch.enable_grad():
        total = loss(at, targets).sum()
    return torch.autograd.grad(total, at)[0]


def formed_curvature(loss: Loss, outputs: Tensor, targets: Targets) -> tuple[Tensor, Tensor]:
    """δ (B, ...) and the (B, c, c) Hessian of each row's loss in its c outputs.

    Each row stands c times in a batch of its own: its Hessian is then one pass back, in which the
    i-th copy is asked for the i-th row.
    """
    count, width = len(outputs), outputs[0].numel()
    copies = outputs.detach().repeat_interleave(width, 0).requires_grad_()
    with torch.enable_grad():
        total = loss(copies, _repeated(targets, width)).sum()
        (cotangent,) = torch.autograd.grad(total, copies, create_graph=True)
    curvature = outputs.new_zeros(count, width, width)
    if cotangent.requires_grad:  # else the loss is linear in the outputs
        units = torch.eye(width, dtype=outputs.dtype, device=outputs.device).repeat(count, 1)
        (rows,) = torch.autograd.grad(cotangent, copies, units.view(copies.shape))
        curvature = rows.reshape(count, width, width)
    return cotangent.detach()[::width].contiguous(), curvature


def _repeated(targets: Targets, times: int) -> Targets:
    if isinstance(targets, tuple):
        return tuple(each.repeat_interleave(times, 0) for each in targets)
    return None if targets is None else targets.repeat_interleave(times, 0)


def gradient_derivatives(loss: Loss, outputs: Tensor, targets: Targets) -> tuple[Tensor, LinearMap]:
    """δ (B, ...) and what takes R of the outputs (k, B, ...) to δ δᵀ R."""
    cotangent = output_cotangents(loss, outputs, targets)
    return cotangent, OuterProduct(cotangent)


def formed_gradients(loss: Loss, outputs: Tensor, targets: Targets) -> tuple[Tensor, Tensor]:
    """δ (B, ...) and δ δᵀ (B, c, c)."""
    cotangent = output_cotangents(loss, outputs, targets)
    flat = cotangent.flatten(1)
    return cotangent, flat.unsqueeze(2) * flat.unsqueeze(1)


def curvature_roots(loss: Loss, outputs: Tensor, targets: Targets) -> Tensor:
    """R (B, c, c) with S = Σ R[:, i] R[:, i]ᵀ the loss's Hessian in the outputs."""
    return roots(formed_curvature(loss, outputs, targets)[1])


def gradient_roots(loss: Loss, outputs: Tensor, targets: Targets) -> Tensor:
    """δ as (B, 1, c)."""
    return output_cotangents(loss, outputs, targets).flatten(1).unsqueeze(1)


@dataclass(frozen=True)
class Term:
    """What a curvature sums over the rows: Jᵀ S J, and what the model's own curvature adds where it `bends`."""

    name: str
    bends: bool
    derivatives: Callable[[Loss, Tensor, Targets], tuple[Tensor, LinearMap]]  # δ, and S as a map
    formed: Callable[[Loss, Tensor, Targets], tuple[Tensor, Tensor]]  # δ, and S
    roots: Callable[[Loss, Tensor, Targets], Tensor]  # R (B, r, c): S = Σ R[:, i] R[:, i]ᵀ
    one_root: bool = False

    def root_count(self, outputs: int) -> int | None:
        """r, for so many outputs of a row; None where they are too many to form S."""
        if self.one_root:
            return 1
        return outputs if outputs <= FORMED_OUTPUTS else None


HESSIAN = Term("hessian", True, output_derivatives, formed_curvature, curvature_roots)
GAUSS_NEWTON = Term("gauss_newton", False, output_derivatives, formed_curvature, curvature_roots)
GRADIENTS = Term(
    "gradients", False, gradient_derivatives, formed_gradients, gradient_roots, one_root=True
)
