"""C, block by block, by its eigenvectors: multiplied with, and (C + λI) divided by, for any λ."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn import functional as F

from workers.engine.curvature.structured.layout import BlockLayout
from workers.engine.errors import BadParameter
from workers.engine.inversion.indefinite import require_regular
from workers.engine.operators import ClosedForm, Curvature, InClosedForm, Inverse

# Vectors whose rotated entries of a block are alive at once, in entries: larger ones leave the caches.
AT_ONCE = 1 << 20
# Rows of a matrix that begin at multiples of so many numbers lie where lines of the caches do: a product of (1920, 512)
# with (512, 513) takes 1.4 times as long as with (512, 528). Of narrow ones the zeros would be too large a part.
ALIGNED, ALIGNED_FROM = 16, 64
# times eps, of the largest entry: a matrix that is an outer product but for so much has been rounded.
ROUNDING = 4.0
# Of the mean eigenvalue: what a preconditioner has in place of λ = 0.
WITHOUT_DAMPING = 1e-2


@dataclass(frozen=True)
class Block:
    """Q diag(Λ) Qᵀ of one block: Q is `left` ⊗ `right` of a Kronecker block, `left` alone of an exact one.

    A basis that is None is the identity. Λ is in float64, and never negative for what is a sum of squares.
    Where most columns are 0 in every row of the data, `right` is of the others alone, C is 0 in these, and both are in
    the order of `order`, these last.
    """

    layout: BlockLayout
    values: Tensor  # (groups, rows, columns) of a Kronecker block, else (size,)
    left: Tensor | None = None  # (groups, rows, rows), or (size, size)
    right: Tensor | None = None  # (groups, columns, columns), or of fewer columns
    order: Tensor | None = None  # (columns,) int64

    def rotated(self, vectors: Tensor, *, gradients: bool = True) -> Tensor:
        """Qᵀ v of (k, p); `gradients`: v may be outer products."""
        found = self.layout.gathered(vectors, self.values.shape[-1])
        if self.layout.form != "kronecker":
            return found if self.left is None else found @ self.left
        if self.order is None:
            return self._turned(found, gradients)
        found = found.index_select(-1, self.order)
        used = found[..., : self.turned_columns]
        used.copy_(self._turned(used, gradients))
        return found

    def put_back(self, found: Tensor, result: Tensor) -> None:
        """Q of what `rotated` gives, into (k, p)."""
        if self.layout.form != "kronecker":
            found = found if self.left is None else found @ self.left.mT
        elif self.order is None:
            found = self._turned_back(found)
        else:
            count, given = self.turned_columns, found
            found = torch.empty_like(given)
            found[..., self.order[:count]] = self._turned_back(given[..., :count])
            found[..., self.order[count:]] = given[..., count:]
        self.layout.scatter(found, result)

    @property
    def turned_columns(self) -> int:
        """Columns that `right` turns: those that some row of the data has."""
        return self.values.shape[-1] if self.right is None else self.right.shape[-1]

    def _turned(self, found: Tensor, gradients: bool) -> Tensor:
        """Q_Sᵀ W Q_A."""
        left, right = self.left, self.right
        factors = None
        if gradients and left is not None and right is not None:
            factors = outer_product(found)
        if left is None or right is None or factors is None:
            return kronecker_rotated(found, left, right)
        rows, columns = (each.movedim(0, 1) for each in factors)  # (groups, k, ...)
        product = (rows @ left).unsqueeze(3) * (columns @ right).unsqueeze(2)
        return product.movedim(0, 1)

    def _turned_back(self, found: Tensor) -> Tensor:
        """Q_S W Q_Aᵀ."""
        found = found if self.left is None else self.left @ found
        return found if self.right is None else _times(found, self.right.mT)

    def aligned(self) -> Block:
        """The same for `rotated` and `put_back`, in whose products zeros make up columns that lie well in memory."""
        if self.layout.form != "kronecker" or self.right is None or self.order is not None:
            return self
        more = aligned_width(self.layout.columns) - self.layout.columns
        if not more:
            return self
        return replace(
            self, values=F.pad(self.values, (0, more)), right=F.pad(self.right, (0, more, 0, more))
        )

    @property
    def mean_eigenvalue(self) -> float:
        """Of all its eigenvalues."""
        return float(self.values.mean())

    def described(self, damping: float) -> dict[str, Any]:
        """For people: what is kept of the layer."""
        layout = self.layout
        found: dict[str, Any] = {
            "layer": layout.layer,
            "kept": layout.covered_by,
            "parameters": layout.size,
            "mean_eigenvalue": self.mean_eigenvalue,
            "below_lambda": float((self.values < damping).double().mean()),
        }
        return found | ({"why": layout.why} if layout.why else {})


def entries_of(layout: BlockLayout, diagonal: Tensor) -> Tensor:
    """A block's entries of (p,), in float64: (size,), or (groups, rows, columns) of a Kronecker block."""
    return layout.gathered(diagonal[None].double())[0]


def is_uniform(entries: Tensor) -> bool:
    """Whether they are one number: then C and the diagonal have the same eigenvectors."""
    return bool((entries == entries.flatten()[0]).all())


def with_diagonal(block: Block, entries: Tensor) -> Block:
    """A block that is no exact one, with these added to C's diagonal.

    Exact where they are one number, or the block is diagonal. Else what Qᵀ D Q has beside its diagonal is left out.
    """
    if block.layout.form == "kronecker" and not is_uniform(entries):
        count = block.turned_columns
        entries = entries.clone() if block.order is None else entries[..., block.order]
        used = entries[..., :count]
        if block.left is not None:
            used = block.left.double().square().mT @ used
        if block.right is not None:
            used = used @ block.right.double().square()
        entries[..., :count] = used
    return replace(block, values=block.values + entries)


def told_of_diagonal(blocks: Sequence[Block], diagonal: Tensor | None) -> dict[str, Any]:
    """What the info says of an L2 term with these factors (p,); nothing where there is none."""
    if diagonal is None:
        return {}
    projected = [
        block.layout.layer
        for block in blocks
        if block.layout.form == "kronecker" and not is_uniform(entries_of(block.layout, diagonal))
    ]
    if not projected:
        return {"l2": "exact"}
    return {"l2": f"along the eigenvectors alone in {', '.join(projected)}; exact elsewhere"}


def aligned_width(columns: int) -> int:
    """Of the matrix to take in place of one with so many columns."""
    return columns if columns < ALIGNED_FROM else columns + -columns % ALIGNED


def kronecker_rotated(found: Tensor, left: Tensor | None, right: Tensor | None) -> Tensor:
    """Q_Sᵀ W Q_A of (..., groups, rows, columns)."""
    found = found if left is None else left.mT @ found
    return found if right is None else _times(found, right)


def _times(found: Tensor, right: Tensor) -> Tensor:
    """W R of (..., groups, rows, columns) and (groups, columns, columns): of one group as one product."""
    if len(right) > 1:
        return found @ right
    return (found.reshape(-1, found.shape[-1]) @ right[0]).view(*found.shape[:-1], -1)


def outer_product(found: Tensor) -> tuple[Tensor, Tensor] | None:
    """u and v, where each W (k, groups, rows, columns) is u vᵀ but for rounding; else None.

    A row's gradient of a layer that it meets once is such a matrix, and u and v are rotated for nothing.
    """
    flat, columns = found.flatten(2), found.shape[3]
    place = flat.abs().argmax(2, keepdim=True)
    pivot = flat.gather(2, place)  # (k, groups, 1)
    row, column = (place // columns).unsqueeze(3), (place % columns).unsqueeze(3)
    v = found.gather(2, row.expand(-1, -1, -1, columns)).squeeze(2)
    u = found.gather(3, column.expand(-1, -1, found.shape[2], -1)).squeeze(3)
    u = u / torch.where(pivot == 0, 1.0, pivot)
    rest = torch.addcmul(found, u.unsqueeze(3), v.unsqueeze(2), value=-1).flatten(2)
    bound = ROUNDING * torch.finfo(found.dtype).eps * pivot.abs()
    return (u, v) if bool((rest.abs() <= bound).all()) else None


def _widened(values: Tensor, wide: Block) -> Tensor:
    """With zeros in the columns that an aligned block has more."""
    more = wide.values.shape[-1] - values.shape[-1]
    return F.pad(values, (0, more)) if more else values


def _squares(found: Tensor) -> Tensor:
    """‖·‖² of each row of (k, ...), in float64: of small gradients they are 0 in float32."""
    return torch.linalg.vector_norm(found.flatten(1), dim=1, dtype=torch.float64).square()


@dataclass(frozen=True)
class Spectral(ClosedForm):
    """(C + λI)⁻¹ of a C that is known by blocks; λ is one for all, or one for each block.

    What is stored is without λ.
    """

    blocks: tuple[Block, ...]
    structure: str
    size: int
    dampings: tuple[float, ...] = ()  # empty: none is given yet
    told: Mapping[str, Any] = field(default_factory=dict)  # how it was made, for the info

    @classmethod
    def of(
        cls,
        curvature: Curvature,
        blocks: Sequence[Block],
        structure: str,
        told: Mapping[str, Any],
    ) -> Spectral:
        """What the structure keeps of a curvature over rows."""
        dtype = str(curvature.dtype).removeprefix("torch.")
        told = {**told, "rows": curvature.row_count, "dtype": dtype}
        return Spectral(tuple(blocks), structure, curvature.shape[0], told=told)

    def damped(self, damping: float | Sequence[float]) -> Self:
        """The same C with another λ, or one for each block. Raises SingularHessian."""
        given = (damping,) * len(self.blocks) if isinstance(damping, int | float) else damping
        if len(given) != len(self.blocks):
            raise BadParameter("hessian_regularization", len(given), "one λ, or one for each block")
        for block, each in zip(self.blocks, given, strict=True):
            if not each >= 0.0 or math.isinf(each):
                raise BadParameter("hessian_regularization", each, "must be finite and at least 0")
            require_regular(block.values, each, self.dtype)
        return replace(self, dampings=tuple(float(each) for each in given))

    @property
    def dtype(self) -> torch.dtype:
        """Of the vectors it takes."""
        return torch.float64 if self.told.get("dtype") == "float64" else torch.float32

    @cached_property
    def mean_eigenvalue(self) -> float:
        """Of all of C: its trace over the number of parameters."""
        return float(sum(float(block.values.sum()) for block in self.blocks)) / self.size

    @property
    def block_eigenvalues(self) -> tuple[Tensor, ...]:
        """Those of each block, (s,) float64."""
        return tuple(block.values.flatten().double() for block in self.blocks)

    @property
    def eigenvalues(self) -> Tensor:
        """(p,) those of C, ascending, float64."""
        return torch.cat([block.values.flatten() for block in self.blocks]).sort().values

    @property
    def extremes(self) -> tuple[float, float]:
        """The smallest and the largest eigenvalue of C."""
        return (
            min(float(block.values.min()) for block in self.blocks),
            max(float(block.values.max()) for block in self.blocks),
        )

    def apply(self, rhs: Tensor) -> Tensor:
        """(C + λI)⁻¹ b for each row b of (k, p)."""
        if not self.dampings:
            raise BadParameter("hessian_regularization", None, "give a λ first")
        return self._mapped(
            rhs, [(block.values + each).reciprocal() for block, each in self._damped]
        )

    def matmat(self, vectors: Tensor) -> Tensor:
        """C v for each row v of (k, p)."""
        return self._mapped(vectors, [block.values for block in self.blocks])

    def preconditioner(self) -> SpectralPreconditioner:
        """To precondition another matrix with."""
        return SpectralPreconditioner(self)

    def solved_each(self, others: Sequence[Self], rhs: Tensor) -> list[InClosedForm]:
        """By this one and by others of the same C with another λ.

        What turns b into the eigenvectors' coordinates is done once for all λ's, and norms are taken there.
        """
        forms = (self, *others)
        if not all(form.dampings for form in forms):
            raise BadParameter("hessian_regularization", None, "give a λ first")
        solutions = [torch.empty_like(rhs, memory_format=torch.contiguous_format) for _ in forms]
        squares = torch.zeros(2, len(forms), len(rhs), dtype=torch.float64, device=rhs.device)
        for number, block in enumerate(self.blocks):
            wide = block.aligned()
            sums = [block.values + form.dampings[number] for form in forms]
            values = wide.values.to(rhs.dtype)
            damped = [_widened(each, wide).to(rhs.dtype) for each in sums]
            inverse = [_widened(each.reciprocal(), wide).to(rhs.dtype) for each in sums]
            step = max(1, AT_ONCE // max(1, block.layout.size))
            for first in range(0, len(rhs), step):
                here = slice(first, first + step)
                given = wide.rotated(rhs[here])
                for index, x in enumerate(solutions):
                    wide.put_back(given * inverse[index], x[here])
                    found = wide.rotated(x[here], gradients=False)
                    residual = torch.addcmul(given, found, damped[index], value=-1)
                    squares[0, index, here] += _squares(residual)
                    squares[1, index, here] += _squares(found * values)
        norms = squares.sqrt().to(rhs.dtype)
        return [InClosedForm(*each) for each in zip(solutions, norms[0], norms[1], strict=True)]

    @property
    def _damped(self) -> list[tuple[Block, float]]:
        return list(zip(self.blocks, self.dampings, strict=True))

    def _mapped(self, vectors: Tensor, factors: Sequence[Tensor]) -> Tensor:
        result = torch.empty_like(vectors, memory_format=torch.contiguous_format)
        factors = [each.to(vectors.dtype) for each in factors]
        for block, factor in zip(self.blocks, factors, strict=True):
            wide = block.aligned()
            own = _widened(factor, wide)
            step = max(1, AT_ONCE // max(1, block.layout.size))
            for first in range(0, len(vectors), step):
                here = slice(first, first + step)
                wide.put_back(wide.rotated(vectors[here]) * own, result[here])
        return result

    def dense(self) -> Tensor:
        """C, (p, p)."""
        like = self.blocks[0].values
        return self.matmat(torch.eye(self.size, dtype=self.dtype, device=like.device))

    def tensors(self) -> dict[str, Tensor]:
        """For storing, without λ."""
        document = {
            "structure": self.structure,
            "size": self.size,
            "told": dict(self.told),
            "blocks": [block.layout.to_json() for block in self.blocks],
        }
        note = torch.frombuffer(bytearray(json.dumps(document).encode()), dtype=torch.uint8)
        found = {"layout": note.clone()}
        for number, block in enumerate(self.blocks):
            found[f"{number}.values"] = block.values
            if block.left is not None:
                found[f"{number}.left"] = block.left
            if block.right is not None:
                found[f"{number}.right"] = block.right
            if block.order is not None:
                found[f"{number}.order"] = block.order
        return found

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Self:
        """The inverse of `tensors`."""
        document = json.loads(bytes(tensors["layout"].cpu().tolist()).decode())
        blocks = tuple(
            Block(
                BlockLayout.from_json(layout),
                tensors[f"{number}.values"],
                tensors.get(f"{number}.left"),
                tensors.get(f"{number}.right"),
                tensors.get(f"{number}.order"),
            )
            for number, layout in enumerate(document["blocks"])
        )
        return cls(blocks, document["structure"], document["size"], told=document["told"])

    @property
    def described(self) -> dict[str, Any]:
        """What the info says: share of θ by what is kept, and layer by layer."""
        shares: dict[str, float] = {}
        for block in self.blocks:
            kept = block.layout.covered_by
            shares[kept] = shares.get(kept, 0.0) + block.layout.size / self.size
        smallest, largest = self.extremes
        dampings = self.dampings or (0.0,) * len(self.blocks)
        of_blocks: dict[str, Any] = {}
        if len(set(dampings)) > 1:
            ends = [
                (float(block.values.min()) + each, float(block.values.max()) + each)
                for block, each in zip(self.blocks, dampings, strict=True)
            ]
            lowest, highest = min(low for low, _ in ends), max(high for _, high in ends)
            of_blocks["damped_extremes"] = {"smallest": lowest, "largest": highest}
        return {
            **of_blocks,
            "smallest_eigenvalue": smallest,
            "largest_eigenvalue": largest,
            "structure": {
                **self.told,
                "name": self.structure,
                "coverage": shares,
                "layers": [
                    b.described(each) for b, each in zip(self.blocks, dampings, strict=True)
                ],
                "mean_eigenvalue": self.mean_eigenvalue,
            },
        }

    @property
    def info(self) -> dict[str, str | int]:
        """As a preconditioner."""
        return {"preconditioner": self.structure}


@dataclass(frozen=True)
class SpectralPreconditioner(Inverse):
    """(C + λI)⁻¹ as a preconditioner of another matrix: where λ is 0, with a part of the mean eigenvalue instead."""

    spectral: Spectral

    is_cheaply_damped = True

    def apply(self, rhs: Tensor) -> Tensor:
        """(k, p) -> (k, p)."""
        return self.spectral.apply(rhs)

    def damped(self, damping: float) -> Self:
        """The same C with another λ."""
        least = self.spectral.mean_eigenvalue * WITHOUT_DAMPING
        return replace(self, spectral=self.spectral.damped(damping or least or 1.0))

    def tensors(self) -> dict[str, Tensor]:
        """For storing, without λ."""
        return self.spectral.tensors()

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Self:
        """The inverse of `tensors`."""
        return cls(Spectral.from_tensors(tensors))

    @property
    def info(self) -> dict[str, str | int]:
        """As a preconditioner."""
        return self.spectral.info
