"""What a method to apply (H + λI)⁻¹ is, and the methods by name."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from workers.engine.inversion.low_rank import LowRank
from workers.engine.inversion.recycled import Recycled
from workers.engine.inversion.solution import Solution, approximate, checked_rhs
from workers.engine.inversion.verdict import Verdict, of_low_rank, of_right_hand_sides
from workers.engine.operators import Curvature, Damped, Inverse
from workers.engine.progress import Progress

METHODS: dict[str, type[Method]] = {}
FitOf = Callable[[float], Inverse | None]  # of a λ


@dataclass(frozen=True)
class Method(ABC):
    """A way to solve (H + λI) x = b: a frozen dataclass of its parameters, named as in the contract.

    A subclass says its name, `class Direct(Method, name="direct")`, and is in METHODS then. A base of several has none.
    """

    name: ClassVar[str]
    recycles: ClassVar[bool] = False  # whether `solve` uses what earlier solutions have left

    def __init_subclass__(cls, *, name: str | None = None) -> None:
        if name is not None:
            cls.name = name
            METHODS[name] = cls

    def fit(
        self, curvature: Curvature, damping: float, progress: Progress | None = None
    ) -> Inverse | None:
        """What depends on model and training rows alone, and perhaps on λ; None where there is nothing."""
        return None

    def lacks(self, fit: Inverse) -> bool:
        """Whether a fit that was made with other parameters must be completed by some work."""
        return False

    def completed(self, fit: Inverse) -> Inverse:
        """The fit with what these parameters ask of it, without a pass over the data."""
        return fit

    @abstractmethod
    def solve(
        self,
        curvature: Curvature,
        damping: float,
        rhs: Tensor,
        progress: Progress | None = None,
        fit: Inverse | None = None,
        recycled: Recycled | None = None,
    ) -> Solution:
        """Solve for all rows of rhs (k, p), by a fit of this λ if one is given.

        `recycled` is what earlier solutions with this H have left, and is added to.
        """

    def solve_each(
        self,
        curvature: Curvature,
        dampings: Sequence[float],
        rhs: Tensor,
        progress: Progress | None = None,
        fit_of: FitOf | None = None,
    ) -> list[Solution]:
        """Solve for all rows of rhs (k, p) with each of several λ's, in their order, from one fit.

        `fit_of` gives the fit of a λ; without it, one is made here.
        """
        fit_of = fit_of or self._from_one_fit(curvature, dampings, progress)
        return [self.solve(curvature, each, rhs, progress, fit_of(each)) for each in dampings]

    def _from_one_fit(
        self, curvature: Curvature, dampings: Sequence[float], progress: Progress | None
    ) -> FitOf:
        """The fit of the largest λ, which is the likeliest to be positive, and the others from it."""
        largest = max(dampings)
        found = self.fit(curvature, largest, progress)

        def of(damping: float) -> Inverse | None:
            if found is None or damping == largest:
                return found
            if found.takes_any_damping:
                return found.damped(damping)
            return self.fit(curvature, damping, progress)

        return of

    def verdict(self, summary: Mapping[str, Any], damping: float, dtype: torch.dtype) -> Verdict:
        """Whether (H + λI) x = b was solved for each right-hand side, from the summary of all solutions."""
        return of_right_hand_sides(summary)


@dataclass(frozen=True)
class ApproximateMethod(Method):
    """A method whose answer is what its fit makes of a right-hand side."""

    @abstractmethod
    def fit(
        self, curvature: Curvature, damping: float, progress: Progress | None = None
    ) -> Inverse:
        """An approximation of (H + λI)⁻¹."""

    def solve(
        self,
        curvature: Curvature,
        damping: float,
        rhs: Tensor,
        progress: Progress | None = None,
        fit: Inverse | None = None,
        recycled: Recycled | None = None,
    ) -> Solution:
        """Solve for all rows of rhs (k, p), with their true residuals."""
        fit = fit or self.fit(curvature, damping, progress)
        return approximate(fit.apply, Damped(curvature, damping), rhs)


@dataclass(frozen=True)
class LowRankMethod(Method):
    """A method whose fit keeps some directions of H, so many as its field `rank_field` says, and solves by them."""

    rank_field: ClassVar[str]
    complement = True  # whether what lies outside of them is divided by λ, or else dropped

    @abstractmethod
    def fit(
        self, curvature: Curvature, damping: float, progress: Progress | None = None
    ) -> LowRank:
        """The directions, which depend on model and training rows alone."""

    def solve(
        self,
        curvature: Curvature,
        damping: float,
        rhs: Tensor,
        progress: Progress | None = None,
        fit: Inverse | None = None,
        recycled: Recycled | None = None,
    ) -> Solution:
        """Solve for all rows of rhs (k, p), with their true residuals."""
        operator = Damped(curvature, damping)
        rhs = checked_rhs(operator, rhs)
        directions = fit or self.fit(curvature, damping, progress)
        assert isinstance(directions, LowRank)
        return directions.solve(rhs, progress, operator)

    def solve_each(
        self,
        curvature: Curvature,
        dampings: Sequence[float],
        rhs: Tensor,
        progress: Progress | None = None,
        fit_of: FitOf | None = None,
    ) -> list[Solution]:
        """As `Method.solve_each`, with the products that the residuals take shared where these are fewer."""
        fit_of = fit_of or self._from_one_fit(curvature, dampings, progress)
        found = fit_of(dampings[0])
        assert isinstance(found, LowRank)
        return found.solve_each(curvature, dampings, rhs, progress)

    def verdict(self, summary: Mapping[str, Any], damping: float, dtype: torch.dtype) -> Verdict:
        """Of a low-rank answer, where something lies outside."""
        field = self.rank_field
        summary = {"rank": getattr(self, field), **summary}
        return of_low_rank(summary, damping, dtype, field, complement=self.complement)
