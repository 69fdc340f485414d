"""H as a few directions: a low-rank inverse, which is also the preconditioner of such a sketch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from workers.engine.errors import BadParameter
from workers.engine.inversion.indefinite import Unsolved, singular
from workers.engine.inversion.solution import Solution, Status, checked_rows
from workers.engine.operators import Curvature, Damped, Inverse
from workers.engine.progress import Progress


@dataclass(frozen=True)
class Products:
    """H times the eigenvectors, (rank, p), and times what of the right-hand sides lies outside them, (k, p).

    What serves one λ serves all: x lies in the span of both.
    """

    inside: Tensor
    outside: Tensor | None


@dataclass(frozen=True)
class LowRank(Inverse):
    """x = V (D + λ)⁻¹ Vᵀ b, plus (b − V Vᵀ b) / λ with `complement`.

    `flat` is its positive form, for preconditioning, times d + λ with d the last of D:
    (d + λ) V (D + λ)⁻¹ Vᵀ + (I − V Vᵀ). Frangella, Tropp and Udell, Randomized Nyström preconditioning
    (2021), equation 5.3.
    """

    eigenvalues: Tensor  # (rank,) of H, λ not included
    eigenvectors: Tensor  # (p, rank)
    residuals: Tensor | None  # (rank,) ‖Hv − μv‖, where that was measured
    damping: float
    complement: bool
    converged: bool | None  # whether the pairs are those of H; None where nobody looked
    images: Tensor | None = None  # (rank, p), H V, where at hand: residuals then take no pass
    lowest: float | None = None  # a Rayleigh quotient of H below 0 that was met beside the pairs
    unsolved: Unsolved = "fail"
    note: str | None = None
    flat: bool = False

    is_cheaply_damped = True

    @property
    def kept(self) -> Tensor:
        """(rank,) booleans: where D + λ is farther from zero than its own error."""
        shifted = self.eigenvalues + self.damping
        return shifted.abs() > self._errors

    @property
    def _errors(self) -> Tensor:
        """(rank,) of D + λ."""
        shifted = self.eigenvalues + self.damping
        eps = torch.finfo(shifted.dtype).eps * self.eigenvectors.shape[0] ** 0.5
        rounding = eps * float(shifted.abs().max())
        if self.residuals is None:
            return torch.full_like(shifted, rounding)
        return torch.clamp(self.residuals, min=rounding)

    @property
    def _negative(self) -> bool:
        """Whether a negative eigenvalue is left in H + λI, or exactly undone by λ, as far as was seen."""
        errors = self._errors
        if self.lowest is not None and self.lowest + self.damping <= -float(errors.max()):
            return True
        below = (self.eigenvalues < -errors) & (self.eigenvalues + self.damping <= errors)
        return bool(below.any())

    @property
    def _below_rounding(self) -> bool:
        """Whether λ is lost in an eigenvalue's own error."""
        return self.damping > 0.0 and not bool(self.kept.all())

    def apply(self, rhs: Tensor) -> Tensor:
        """(k, p) -> (k, p)."""
        if self.flat:
            values = self.eigenvalues
            weights = (values[-1] + self.damping) / (values + self.damping) - 1.0
            return rhs + ((rhs @ self.eigenvectors) * weights) @ self.eigenvectors.T
        return self._applied(rhs)[0]

    def _applied(self, rhs: Tensor) -> tuple[Tensor, Tensor]:
        """x (k, p), and its coordinates in the eigenvectors that are kept."""
        vectors, values = self.eigenvectors[:, self.kept], self.eigenvalues[self.kept]
        inside = rhs @ vectors
        parts = inside / (values + self.damping)
        x = parts @ vectors.T
        if self.complement:
            outside = rhs - (rhs @ self.eigenvectors) @ self.eigenvectors.T
            x = x + outside / self.damping
        return x, parts

    def solve(
        self,
        rhs: Tensor,
        progress: Progress | None = None,
        operator: Damped | None = None,
        products: Products | Tensor | None = None,
    ) -> Solution:
        """Solve for all (k, p) at once. Without `operator`, residual norms are NaN: not measured.

        `products` are those of these right-hand sides, or H times their solution, where they are at hand.
        Raises SingularHessian where a pair is negative with λ, and that is not kept.
        """
        size = self.eigenvectors.shape[0]
        rhs = checked_rows(rhs, size, self.eigenvectors.dtype, self.eigenvectors.device)
        negative = self._negative
        if negative and self.unsolved == "fail":
            # What is not among the largest in absolute value is less negative than this.
            scale = max(float(self.eigenvalues.abs().max()), self.damping)
            least = float(self.eigenvalues.min())
            if self.lowest is None or least <= self.lowest:
                raise singular(least, self.damping, scale)
            raise singular(self.lowest, self.damping, scale, bound=True)
        x, parts = self._applied(rhs)
        norms = torch.full_like(rhs[:, 0], float("nan"))
        if operator is not None:
            if isinstance(products, Tensor):
                product = products + self.damping * x
            elif products is not None:
                product = parts @ products.inside[self.kept] + self.damping * x
                if products.outside is not None:
                    product = product + products.outside / self.damping
            elif self.images is None or self.complement:
                product = operator.matmat(x)
            else:  # x lies in the span of the eigenvectors, whose products are at hand
                product = parts @ self.images[self.kept] + self.damping * x
            norms = torch.linalg.vector_norm(rhs - product, dim=1)
        if progress is not None:
            progress("solve", rhs.shape[0], rhs.shape[0], "right-hand sides")
        status = self._status(rhs, norms)
        if negative:
            status = (Status.NEGATIVE_CURVATURE,) * len(rhs)
        return Solution(x, norms, status, self._summary())

    def products(self, rhs: Tensor, curvature: Curvature) -> Products:
        """Those that any λ needs for the residuals of these right-hand sides (k, p)."""
        inside = self.images
        if inside is None:
            inside = curvature.matmat(self.eigenvectors.T.contiguous())
        outside = None
        if self.complement:
            outside = curvature.matmat(rhs - (rhs @ self.eigenvectors) @ self.eigenvectors.T)
        return Products(inside, outside)

    def solve_each(
        self,
        curvature: Curvature,
        dampings: Sequence[float],
        rhs: Tensor,
        progress: Progress | None = None,
    ) -> list[Solution]:
        """Solve for all (k, p) with each λ; by products that all share, where these are fewer."""
        size = self.eigenvectors.shape[0]
        rhs = checked_rows(rhs, size, self.eigenvectors.dtype, self.eigenvectors.device)
        one_by_one = 0 if self.images is not None and not self.complement else len(rhs)
        shared = (self.eigenvectors.shape[1] if self.images is None else 0) + len(rhs)
        products: Sequence[Products | Tensor | None] = [None] * len(dampings)
        if 0 < shared < one_by_one * len(dampings):
            products = [self.products(rhs, curvature)] * len(dampings)
        elif one_by_one:  # in one pass for all λ's
            x = [self.damped(each).apply(rhs) for each in dampings]
            products = curvature.matmat(torch.cat(x)).split(len(rhs))
        return [
            self.damped(each).solve(rhs, progress, Damped(curvature, each), of_this)
            for each, of_this in zip(dampings, products, strict=True)
        ]

    def _status(self, rhs: Tensor, norms: Tensor) -> tuple[Status, ...]:
        exact = norms <= torch.finfo(rhs.dtype).eps ** 0.5 * torch.linalg.vector_norm(rhs, dim=1)
        if self._below_rounding:
            # λ is below rounding: what was dropped is large in x, though no residual shows it.
            exact = torch.zeros_like(exact)
        return tuple(Status.CONVERGED if each else Status.TRUNCATED for each in exact.tolist())

    def _summary(self) -> dict[str, object]:
        found: dict[str, object] = {
            "eigenvalues": self.eigenvalues,
            "eigenvectors": self.eigenvectors,
            "residuals": self.residuals,
            "dropped": self.eigenvalues[~self.kept],
            "rank": self.eigenvectors.shape[1],
            "dropped_count": int((~self.kept).sum()),
            "note": self.note,
        }
        if self.converged is not None:
            found["converged"] = self.converged and not self._below_rounding
        return {name: value for name, value in found.items() if value is not None}

    def damped(self, damping: float) -> LowRank:
        """The same pairs with another λ."""
        return replace(self, damping=damping)

    def positive(self) -> LowRank:
        """In its `flat` form, of the pairs that λ leaves positive, largest first."""
        if not self.damping > 0.0:
            raise BadParameter(
                "hessian_regularization",
                self.damping,
                "must be positive for a preconditioner of low rank",
            )
        falling = self.eigenvalues.argsort(descending=True, stable=True)
        sound = falling[self.eigenvalues[falling] >= 0.0]
        if not len(sound):
            values, vectors = torch.zeros_like(self.eigenvalues[:1]), self.eigenvectors[:, :1]
        elif bool((sound == torch.arange(len(self.eigenvalues), device=sound.device)).all()):
            return replace(self, flat=True)
        else:
            values, vectors = self.eigenvalues[sound], self.eigenvectors[:, sound]
        return replace(self, eigenvalues=values, eigenvectors=vectors, flat=True)

    def tensors(self) -> dict[str, Tensor]:
        """For storing; `from_tensors` takes them back."""
        numbers = (self.damping, float(self.complement), float(self.flat))
        tensors = {
            "eigenvalues": self.eigenvalues,
            "eigenvectors": self.eigenvectors,
            "numbers": torch.tensor(numbers, dtype=torch.float64),
        }
        if self.converged is not None:
            tensors["converged"] = torch.tensor([float(self.converged)])
        # Whoever has images measures residuals without a pass, so that all must have them.
        lowest = None if self.lowest is None else torch.tensor([self.lowest], dtype=torch.float64)
        more = {"residuals": self.residuals, "images": self.images, "lowest": lowest}
        return tensors | {name: each for name, each in more.items() if each is not None}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> LowRank:
        """The inverse of `tensors`."""
        damping, complement, flat = tensors["numbers"].tolist()
        converged = tensors.get("converged")
        return cls(
            tensors["eigenvalues"],
            tensors["eigenvectors"],
            tensors.get("residuals"),
            damping,
            bool(complement),
            None if converged is None else bool(converged),
            tensors.get("images"),
            float(tensors["lowest"]) if "lowest" in tensors else None,
            flat=bool(flat),
        )

    @property
    def info(self) -> dict[str, str | int]:
        """As a preconditioner."""
        return {"preconditioner": "low_rank", "preconditioner_rank": len(self.eigenvalues)}
