"""From the contract's inversion methods to the engine's, one row each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from upweight.schema import Arnoldi, ConjugateGradient, Direct, Lissa
from workers import engine
from workers.engine import Precision, Solution

Guess = Callable[[str, str], Tensor]  # (blob digest, tensor name) -> (k, p)
Method = engine.Direct | engine.ConjugateGradients | engine.Lissa | engine.Arnoldi


def engine_method(
    inversion: Direct | ConjugateGradient | Lissa | Arnoldi, seed: int, guess: Guess
) -> Method:
    """The engine's method with the contract's parameters; first guesses are fetched by `guess`."""
    match inversion:
        case Direct():
            return engine.Direct(spectrum=inversion.spectrum, unsolved=inversion.unsolved)
        case ConjugateGradient():
            return engine.ConjugateGradients(
                x0=guess(inversion.x0, "x0") if inversion.x0 else None,
                rtol=inversion.rtol,
                atol=inversion.atol,
                maxiter=inversion.maxiter,
                preconditioner=inversion.preconditioner.name if inversion.preconditioner else None,
                rank=getattr(inversion.preconditioner, "rank", None),
                seed=seed,
                unsolved=inversion.unsolved,
            )
        case Lissa():
            return engine.Lissa(
                maxiter=inversion.maxiter,
                dampen=inversion.dampen,
                scale=inversion.scale,
                h0=guess(inversion.h0, "h0") if inversion.h0 else None,
                rtol=inversion.rtol,
                batch_size=inversion.batch_size,
                seed=seed if inversion.seed is None else inversion.seed,
                unsolved=inversion.unsolved,
            )
        case Arnoldi():
            return engine.Arnoldi(
                rank_estimate=inversion.rank_estimate,
                tol=inversion.tol,
                krylov_dimension=inversion.krylov_dimension,
                eigen_computation_on_gpu=inversion.eigen_computation_on_gpu,
                complement=inversion.complement,
                seed=seed,
                unsolved=inversion.unsolved,
            )


def low_precision(precision: str | None) -> Precision:
    """The engine's precision of gradient products; everything else is in the problem's dtype."""
    return precision if precision in ("tf32", "bf16") else "full"  # type: ignore[return-value]


def curvature_share(rhs: Tensor, x: Tensor, damping: float) -> float:
    """What H, and not λ, makes of the right-hand sides b (k, p): the mean of ‖b − λx‖ / ‖b‖ of those beside 0."""
    norms = torch.linalg.vector_norm(rhs, dim=1)
    rest = torch.linalg.vector_norm(rhs - damping * x, dim=1)
    some = norms > 0
    return float((rest[some] / norms[some]).mean()) if bool(some.any()) else 0.0


def described(solution: Solution) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """An inversion's info as a summary of plain values and arrays to store."""
    summary: dict[str, Any] = {}
    arrays: dict[str, Tensor] = {"residual_norms": solution.residual_norms}
    for name, value in solution.info.items():
        if isinstance(value, Tensor) and value.ndim > 0:
            arrays[name] = value
        elif isinstance(value, Tensor):
            summary[name] = value.item()
        elif isinstance(value, str | int | float | bool):
            summary[name] = value
    summary["right_hand_sides"] = len(solution.status)
    summary["statuses"] = {
        status.value: solution.status.count(status) for status in set(solution.status)
    }
    summary["worst_residual_norm"] = (
        solution.residual_norms.max().item() if len(solution.status) else 0.0
    )
    if "iterations" in arrays and arrays["iterations"].numel():
        summary["iterations"] = int(arrays["iterations"].max())
    return summary, arrays
