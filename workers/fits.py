"""What an inversion finds out about model and training rows alone, kept on a warm worker from job to job."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

from torch import Tensor

from workers import engine
from workers.engine import Factorisation, Hessian, LowRank, Progress, Solution
from workers.inversions import Method
from workers.session import Session

Solve = Callable[[Tensor], Solution]
Fit = TypeVar("Fit")


@dataclass(frozen=True)
class Fits:
    """The fits of one model in one precision over one choice of training rows, which `key` names."""

    session: Session
    key: tuple[str, ...]
    reuse: bool

    def solver(self, method: Method, hessian: Hessian, progress: Progress) -> Solve:
        """How to solve for any block of right-hand sides; the fit is made now, or found."""
        match method:
            case engine.Direct():
                return self._factorisation(method, hessian, progress).solve
            case engine.Arnoldi():
                pairs = self._pairs(method, hessian, progress)
                return lambda rhs: pairs.solve(rhs, progress, operator=hessian)
            case _:
                return lambda rhs: method.solve(hessian, rhs, progress)

    def _factorisation(
        self, method: engine.Direct, hessian: Hessian, progress: Progress
    ) -> Factorisation:
        def fit() -> tuple[Factorisation, int]:
            found = method.fit(hessian, progress)
            return found, _bytes(found)

        fitted: Factorisation = self._found(("direct",), fit)
        # Another λ needs no pass over the data: only the factorisation is made again.
        return fitted if fitted.damping == hessian.damping else fitted.damped(hessian.damping)

    def _pairs(self, method: engine.Arnoldi, hessian: Hessian, progress: Progress) -> LowRank:
        def fit() -> tuple[LowRank, int]:
            found = method.fit(hessian, progress)
            return found, _bytes(found)

        parameters = (method.rank_estimate, method.tol, method.krylov_dimension, method.seed)
        fitted: LowRank = self._found(("arnoldi", *map(str, parameters)), fit)
        return replace(fitted, damping=hessian.damping, complement=method.complement)

    def _found(self, name: tuple[str, ...], fit: Callable[[], tuple[Fit, int]]) -> Fit:
        return self.session.kept((*self.key, *name), fit) if self.reuse else fit()[0]


def _bytes(fitted: Factorisation | LowRank) -> int:
    return sum(each.nbytes for each in fitted.tensors().values())
