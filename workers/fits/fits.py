"""What an inversion finds out about model and training rows alone, kept on a warm worker from job to job, and on a
shelf in the object storage from worker to worker."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

from torch import Tensor

from workers import engine
from workers.engine import (
    Factorisation,
    Hessian,
    LowRank,
    Operator,
    Progress,
    Recycled,
    Solution,
)
from workers.engine.inversion.preconditioner import (
    Diagonal,
    LowRankPlusIdentity,
    Preconditioner,
)
from workers.fits.inversions import Method
from workers.fits.session import Session

# Grows when fits are made another way, so that those in the object storage are not taken for what they would be now:
# until 2, eigenpairs of arnoldi had the rounding of λ in them.
REVISION = 2

Solve = Callable[[Tensor], Solution]
Fit = TypeVar("Fit")


class Shelf(Protocol):
    """Where fits are found by other workers, by name."""

    def find(self, name: str) -> dict[str, Tensor] | None: ...
    def put(self, name: str, tensors: Mapping[str, Tensor]) -> bool: ...


@dataclass(frozen=True)
class Fits:
    """The fits of one model in one precision over one choice of training rows, which `key` names."""

    session: Session
    key: tuple[str, ...]
    damping: float
    shelf: Shelf | None = None
    recycles: bool = False  # whether a solution may depend on those before it

    def name(self, method: Method) -> str | None:
        """What a fit of this method is called on a shelf; None for a method without."""
        name = self._name(method)
        return "-".join(name) if name else None

    def _name(self, method: Method) -> tuple[str, ...]:
        match method:
            case engine.Direct(unsolved=unsolved):  # of any λ
                return ("direct",) if unsolved == "fail" else ("direct", unsolved)
            case engine.Arnoldi(rank_estimate=rank, tol=tol, krylov_dimension=dimension, seed=seed):
                return ("arnoldi", *map(str, (rank, tol, dimension, seed)))
            case engine.ConjugateGradients(preconditioner=str(kind), rank=rank, seed=seed):
                return ("cg", *map(str, (kind, rank, seed, self.damping)))
            case _:
                return ()

    def prepare(self, method: Method, hessian: Callable[[], Operator], progress: Progress) -> None:
        """Makes the fit, or finds it, so that `solver` will find it."""
        match method:
            case engine.Direct():
                self._factorisation(method, hessian, progress)
            case engine.Arnoldi():
                self._pairs(method, hessian, progress)
            case engine.ConjugateGradients() if method.preconditioner:
                self._preconditioner(method, hessian, progress)
            case _:
                pass

    def solver(self, method: Method, hessian: Callable[[], Hessian], progress: Progress) -> Solve:
        """How to solve for any block of right-hand sides; the fit is made now, or found.

        `hessian` makes a new operator.
        """
        match method:
            case engine.Direct():
                return self._factorisation(method, hessian, progress).solve
            case engine.Arnoldi():
                pairs, operator = self._pairs(method, hessian, progress), hessian()
                return lambda rhs: pairs.solve(rhs, progress, operator=operator)
            case engine.ConjugateGradients() if method.preconditioner:
                fitted, operator = self._preconditioner(method, hessian, progress), hessian()
                return lambda rhs: method.solve(operator, rhs, progress, fitted)
            case _:
                operator = hessian()
                return lambda rhs: self._recycling(method, operator, rhs, progress)

    def _recycling(
        self,
        method: engine.ConjugateGradients | engine.Lissa,
        operator: Hessian,
        rhs: Tensor,
        progress: Progress,
    ) -> Solution:
        """With what earlier solutions on this worker have left, and leaving more for the next."""
        if not self.recycles:
            return method.solve(operator, rhs, progress)
        key = (*self.key, "recycled")
        recycled = self.session.kept(key, lambda: (Recycled(), 0))
        solution = method.solve(operator, rhs, progress, recycled=recycled)
        self.session.resize(key, recycled.nbytes)
        return solution

    def _factorisation(
        self, method: engine.Direct, hessian: Callable[[], Operator], progress: Progress
    ) -> Factorisation:
        def fit() -> Factorisation:
            return method.fit(hessian(), progress)

        fitted = self._found(self._name(method), fit, Factorisation.from_tensors)
        if method.wants_all(len(fitted.hessian)) and fitted.spectrum.eigenvalues is None:
            key, found = (*self.key, *self._name(method), "spectrum"), fitted
            fitted = self.session.kept(key, lambda: _sized(found.with_all_eigenvalues()))
        if fitted.damping == self.damping:
            return fitted
        # Another λ needs no pass over the data: only the factorisation is made again.
        key = (*self.key, *self._name(method), method.spectrum, str(self.damping))
        kept = fitted
        return self.session.kept(key, lambda: _sized(kept.damped(self.damping, method.unsolved)))

    def _pairs(
        self, method: engine.Arnoldi, hessian: Callable[[], Operator], progress: Progress
    ) -> LowRank:
        fitted = self._found(self._name(method), lambda: method.fit(hessian(), progress), _low_rank)
        return replace(
            fitted,
            damping=self.damping,
            complement=method.complement,
            asked=method.rank_estimate,
            unsolved=method.unsolved,
        )

    def _preconditioner(
        self, method: engine.ConjugateGradients, hessian: Callable[[], Operator], told: Progress
    ) -> Preconditioner:
        return self._found(self._name(method), lambda: method.fit(hessian(), told), _preconditioner)

    def _found(
        self,
        name: tuple[str, ...],
        fit: Callable[[], Fit],
        from_tensors: Callable[[dict[str, Tensor]], Fit],
    ) -> Fit:
        return self.session.kept(
            (*self.key, *name), lambda: _sized(self._shelved("-".join(name), fit, from_tensors))
        )

    def _shelved(
        self,
        name: str,
        fit: Callable[[], Fit],
        from_tensors: Callable[[dict[str, Tensor]], Fit],
    ) -> Fit:
        stored = self.shelf.find(name) if self.shelf is not None else None
        if stored is not None:
            return from_tensors(stored)
        tensors = {key: each.contiguous() for key, each in _tensors(fit()).items()}
        if self.shelf is not None and not self.shelf.put(name, tensors):
            # Another was there first, and all blocks are computed with one.
            tensors = self.shelf.find(name) or tensors
        # As whoever takes it from the shelf will have it: the layout in memory decides the last bits, too.
        return from_tensors(tensors)


def _tensors(fitted: Any) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = fitted.tensors()
    if isinstance(fitted, LowRank) and fitted.images is not None:
        # Whoever has them measures residuals without a pass, so that all must have them.
        tensors["images"] = fitted.images
    return tensors


def _low_rank(tensors: dict[str, Tensor]) -> LowRank:
    return replace(LowRank.from_tensors(tensors), images=tensors.get("images"))


def _preconditioner(tensors: dict[str, Tensor]) -> Preconditioner:
    return Diagonal(**tensors) if "diagonal" in tensors else LowRankPlusIdentity(**tensors)


def _sized(fitted: Fit) -> tuple[Fit, int]:
    return fitted, sum(each.nbytes for each in _tensors(fitted).values())
