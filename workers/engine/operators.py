"""The linear operators of the engine: a curvature H, the sum H + λI, and what approximates (H + λI)⁻¹."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from workers.engine.errors import BadParameter

INVERSES: dict[str, type[Inverse]] = {}


class Curvature(ABC):
    """H, symmetric. What a kind of curvature can do beyond products is said by its attributes; solvers ask these."""

    passes: int = 0  # over all training rows, so far
    matrix: Tensor | None = None  # (p, p), where it is at hand
    is_sum_of_rows: bool = False  # whether products over some of the rows are to be had
    space_bytes: int | None = None  # most for a basis of vectors; None: as many as pay

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int]:
        """(p, p)."""

    @property
    @abstractmethod
    def dtype(self) -> torch.dtype:
        """Of the vectors it multiplies."""

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where these lie."""

    @property
    def row_count(self) -> int:
        """n, the number of training rows."""
        raise NotImplementedError

    @abstractmethod
    def matmat(self, vectors: Tensor) -> Tensor:
        """H v for each row v of (k, p): (k, p)."""

    def damped_matmat(self, vectors: Tensor, damping: float) -> Tensor:
        """(H + λI) v for each row v of (k, p): (k, p)."""
        return torch.add(self.matmat(vectors), vectors, alpha=damping)

    def sampled_matmat(self, indices: Tensor, vectors: Tensor) -> Tensor:
        """(k, p) -> (k, p) with the mean over the rows with these numbers alone."""
        raise NotImplementedError

    def partial_matmat(self, indices: Tensor, vectors: Tensor) -> Tensor:
        """(k, p) -> (k, p): the sum over the rows with these numbers (r,), ascending, by the number of ALL rows."""
        raise NotImplementedError

    @abstractmethod
    def dense(self) -> Tensor:
        """(p, p)."""

    def in_double(self) -> Curvature | None:
        """The same in float64; None where it cannot be had, or raises what the model does."""
        return None

    def matrix_if_cheaper(self, vectors: int, width: int) -> Tensor | None:
        """H (p, p), if building it saves time on that many products to come, `width` vectors at a time; built once."""
        return None

    def preconditioner_if_cheaper(self, damping: float, products: float) -> Metric | None:
        """One of its own for H + λI, if that makes a solution by so many products cheaper."""
        return None

    def of_structure(self, structure: str) -> Curvature:
        """What of a positive relative of it a structure keeps, to precondition with. Raises BadParameter."""
        raise BadParameter("preconditioner", structure, "a method: this curvature has no structure")

    def partial_sums(self) -> dict[str, Tensor]:
        """What its matrix, or its closed form, is made of: sums over the rows, which add up over parts of them."""
        return {"sum": self.dense() * self.row_count}

    def rotation(self, total: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Of one whose eigenvalues are sums of a second pass: its eigenvectors, of the `partial_sums` over all rows."""
        raise NotImplementedError

    def second_sums(self, rotation: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Sums over the rows in these eigenvectors, which add up over parts of them."""
        raise NotImplementedError

    def of_sums(self, total: Mapping[str, Tensor]) -> Curvature:
        """The same, to be built of the `partial_sums` over all rows, or of their `rotation` and the second sums."""
        return Summed(self, total["sum"])

    def known_by(self, closed: ClosedForm) -> Curvature:
        """The same with a closed form that was made before."""
        return self

    def closed_form(self) -> ClosedForm | None:
        """Itself by its eigenvectors, where they are known without building it; may take passes over the rows."""
        return None


@dataclass(frozen=True)
class Damped:
    """H + λI, of a curvature and λ ≥ 0."""

    curvature: Curvature
    damping: float

    def __post_init__(self) -> None:
        if not self.damping >= 0.0 or self.damping == float("inf"):
            raise BadParameter(
                "hessian_regularization", self.damping, "must be finite and at least 0"
            )

    @property
    def passes(self) -> int:
        """Over all training rows, so far."""
        return self.curvature.passes

    @property
    def shape(self) -> tuple[int, int]:
        """(p, p)."""
        return self.curvature.shape

    @property
    def dtype(self) -> torch.dtype:
        """Of the vectors it multiplies."""
        return self.curvature.dtype

    @property
    def device(self) -> torch.device:
        """Where these lie."""
        return self.curvature.device

    @property
    def row_count(self) -> int:
        """n, the number of training rows."""
        return self.curvature.row_count

    def matmat(self, vectors: Tensor) -> Tensor:
        """(H + λI) v for each row v of (k, p): (k, p)."""
        return self.curvature.damped_matmat(vectors, self.damping)

    def sampled_matmat(self, indices: Tensor, vectors: Tensor) -> Tensor:
        """(H_j + λI) v with H_j the mean over the rows with these numbers: (k, p)."""
        product = self.curvature.sampled_matmat(indices, vectors)
        return torch.add(product, vectors, alpha=self.damping)

    def partial_matmat(self, indices: Tensor, vectors: Tensor) -> Tensor:
        """λ v and the sum over the rows with these numbers, ascending, by the number of ALL rows: (k, p)."""
        return self.curvature.partial_matmat(indices, vectors) + self.damping * vectors


@dataclass(frozen=True)
class OfAnother(Curvature):
    """A curvature that is made of another one: of its size and type, over its rows."""

    original: Curvature

    @property
    def passes(self) -> int:  # type: ignore[override]
        return self.original.passes

    @property
    def shape(self) -> tuple[int, int]:
        return self.original.shape

    @property
    def dtype(self) -> torch.dtype:
        return self.original.dtype

    @property
    def device(self) -> torch.device:
        return self.original.device

    @property
    def space_bytes(self) -> int | None:  # type: ignore[override]
        return self.original.space_bytes

    @property
    def row_count(self) -> int:
        return self.original.row_count

    def of_structure(self, structure: str) -> Curvature:
        return self.original.of_structure(structure)


@dataclass(frozen=True)
class Explicit(OfAnother):
    """A curvature with its matrix at hand: a product takes 2 p² operations and no pass over rows."""

    matrix: Tensor = field()  # (p, p)

    def matmat(self, vectors: Tensor) -> Tensor:
        """(k, p) -> (k, p)."""
        return vectors @ self.matrix

    def damped_matmat(self, vectors: Tensor, damping: float) -> Tensor:
        """(k, p) -> (k, p), λ included."""
        return torch.addmm(vectors, vectors, self.matrix, beta=damping)

    def sampled_matmat(self, indices: Tensor, vectors: Tensor) -> Tensor:
        """With the mean over these rows alone: the matrix is of no use for that."""
        return self.original.sampled_matmat(indices, vectors)

    def dense(self) -> Tensor:
        """(p, p)."""
        return self.matrix.clone()

    def in_double(self) -> Curvature | None:
        """By products: the matrix was rounded."""
        return self.original.in_double()


@dataclass(frozen=True)
class Summed(OfAnother):
    """A curvature whose sum over the rows is at hand: it is built of that."""

    total: Tensor = field()  # (p, p)

    def matmat(self, vectors: Tensor) -> Tensor:
        """(k, p) -> (k, p), by passes over the rows."""
        return self.original.matmat(vectors)

    def dense(self) -> Tensor:
        """(p, p)."""
        return self.total / self.row_count


def explicit_where_cheaper(curvature: Curvature, vectors: float, width: int) -> Curvature:
    """The curvature, with its matrix at hand if that pays for so many vectors."""
    if curvature.matrix is not None:
        return curvature
    matrix = curvature.matrix_if_cheaper(int(vectors), width)
    return curvature if matrix is None else Explicit(curvature, matrix)


class Inverse(ABC):
    """An approximation of (H + λI)⁻¹ that serves any right-hand side, and can be stored.

    Each is the answer of a method, and a preconditioner of conjugate gradients.
    """

    # Whether it is (H + λI)⁻¹ but for rounding, and whether another λ costs next to nothing.
    is_exact: ClassVar[bool] = False
    is_cheaply_damped: ClassVar[bool] = False

    def __init_subclass__(cls) -> None:
        INVERSES[cls.__name__] = cls

    @abstractmethod
    def apply(self, rhs: Tensor) -> Tensor:
        """(k, p) -> (k, p)."""

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """All that it is made of, for storing."""

    @property
    def nbytes(self) -> int:
        """Of all that."""
        return sum(each.nbytes for each in self.tensors().values())

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Self:
        """The inverse of `tensors`."""
        return cls(**tensors)

    def damped(self, damping: float) -> Inverse:
        """The same H with another λ, without a pass over the data."""
        raise NotImplementedError(f"{type(self).__name__} is of one λ alone")

    @property
    def takes_any_damping(self) -> bool:
        """Whether there is a `damped` of it."""
        return type(self).damped is not Inverse.damped

    def positive(self) -> Inverse:
        """As a preconditioner: symmetric and positive definite, right up to a factor. Raises BadParameter."""
        return self

    @property
    @abstractmethod
    def info(self) -> dict[str, str | int]:
        """What conjugate gradients say of it as their preconditioner: its name and, where it has one, its rank."""


@dataclass(frozen=True)
class InClosedForm:
    """x = (C + λI)⁻¹ b for each row of (k, p), with ‖b − (C + λI) x‖ and ‖C x‖, (k,)."""

    x: Tensor
    residual_norms: Tensor
    image_norms: Tensor


class ClosedForm(Inverse):
    """(C + λI)⁻¹ of a C whose eigenvectors are known: another λ costs nothing, and residuals no pass."""

    size: int  # p
    is_cheaply_damped = True

    @abstractmethod
    def damped(self, damping: float | Sequence[float]) -> Self:
        """The same C with another λ, or one for each of its blocks. Raises SingularHessian."""

    @abstractmethod
    def matmat(self, vectors: Tensor) -> Tensor:
        """C v for each row v of (k, p): (k, p)."""

    @abstractmethod
    def solved_each(self, others: Sequence[Self], rhs: Tensor) -> list[InClosedForm]:
        """By this one and by others of the same C with another λ."""

    @abstractmethod
    def preconditioner(self) -> Inverse:
        """To precondition another matrix with, cheaply damped."""

    @property
    @abstractmethod
    def block_eigenvalues(self) -> Sequence[Tensor]:
        """Those of each block, (s,) float64."""

    @property
    @abstractmethod
    def eigenvalues(self) -> Tensor:
        """(p,) those of C, ascending, float64."""

    @property
    @abstractmethod
    def described(self) -> dict[str, Any]:
        """What the info says: `smallest_eigenvalue` and `largest_eigenvalue` of C, and its `structure`.

        With a λ for each block `damped_extremes` are those of C + λI.
        """


def stored(inverse: Inverse) -> dict[str, Tensor]:
    """Its tensors under names that say its class; `restored` takes them back."""
    kind = type(inverse).__name__
    return {f"{kind}.{name}": each.contiguous() for name, each in inverse.tensors().items()}


def restored(tensors: Mapping[str, Tensor]) -> Inverse:
    """The inverse that was `stored`."""
    (kind,) = {name.partition(".")[0] for name in tensors}
    return INVERSES[kind].from_tensors(
        {name.partition(".")[2]: each for name, each in tensors.items()}
    )


class Metric(Inverse):
    """One that can be multiplied with as well as divided by, and knows which rows it owes most."""

    row_traces: Tensor  # (n,) what each training row adds to the trace of the Gauss-Newton matrix

    @abstractmethod
    def products(self, blocks: Sequence[Tensor]) -> Tensor:
        """M times these vectors with each other: blocks (s_i, p) to (Σ s, Σ s), float64."""
