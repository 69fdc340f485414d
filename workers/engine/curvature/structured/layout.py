"""Which block each parameter is in: found on a few rows, and nothing left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from workers.engine.autodiff.layer_uses import agreeing_uses
from workers.engine.autodiff.uses import BroadcastUse, MatrixUse, Use
from workers.engine.model.parameters import ParameterSlice
from workers.engine.model.problem import Problem
from workers.engine.model.rows import Rows

Structure = Literal["layers", "kfac", "ekfac", "diagonal", "identity"]
Form = Literal["kronecker", "exact", "diagonal", "identity"]

FACTORED: tuple[Structure, ...] = ("kfac", "ekfac")  # whose blocks are Kronecker products

# Exact blocks beside Kronecker factors: norms, shifts. `layers` has larger ones.
SMALL_BLOCK = 1024
LARGE_BLOCK = 4096
# A factor of a layer is (side, side), and its eigenvectors take 25 side³ operations.
LARGEST_SIDE = 8192
UNKNOWN_USE = "no rule covers how it is used"


@dataclass(frozen=True)
class BlockLayout:
    """One block: where its entries lie in θ, and what is kept of it.

    A Kronecker block is a matrix (rows, columns) for each of its groups; the last column is the bias
    where there is one. `transposed`: its parameter is (columns, rows). `diagonal_rows`: of an
    embedding, whose rows are picked by number.
    """

    layer: str
    form: Form
    names: tuple[str, ...]
    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    groups: int = 1
    rows: int = 0
    columns: int = 0
    transposed: bool = False
    has_bias: bool = False
    diagonal_rows: bool = False
    why: str = ""  # what it is not kept better for

    @property
    def size(self) -> int:
        """How many entries of θ."""
        return sum(self.sizes)

    def gathered(self, vectors: Tensor, width: int = 0) -> Tensor:
        """Its entries of (k, p): (k, groups, rows, columns), or (k, size). Zeros in columns beyond, up to `width`."""
        parts = [
            vectors[:, offset : offset + size]
            for offset, size in zip(self.offsets, self.sizes, strict=True)
        ]
        if self.form != "kronecker":
            return parts[0] if len(parts) == 1 else torch.cat(parts, 1)
        inside, shape = self.columns - self.has_bias, (len(vectors), self.groups)
        if self.transposed:
            weight = parts[0].view(len(vectors), inside, self.rows).mT.unsqueeze(1)
        else:
            weight = parts[0].view(*shape, self.rows, inside)
        if not self.has_bias and width <= inside:
            return weight
        found = vectors.new_empty(*shape, self.rows, max(width, self.columns))
        found[..., :inside] = weight
        if self.has_bias:
            found[..., inside] = parts[1].view(*shape, self.rows)
        found[..., self.columns :] = 0.0
        return found

    def scatter(self, found: Tensor, result: Tensor) -> None:
        """Put what `gathered` gives back into (k, p)."""
        if self.form != "kronecker":
            pieces: Sequence[Tensor] = found.split(list(self.sizes), 1)
        else:
            inside = self.columns - self.has_bias
            weight = found[..., :inside]
            pieces = [(weight.squeeze(1).mT if self.transposed else weight).flatten(1)]
            if self.has_bias:
                pieces = [*pieces, found[..., inside].flatten(1)]
        for offset, size, piece in zip(self.offsets, self.sizes, pieces, strict=True):
            result[:, offset : offset + size] = piece

    def to_json(self) -> dict[str, Any]:
        """As a fit keeps it."""
        return asdict(self)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> BlockLayout:
        """The inverse of `to_json`."""
        lists = {name: tuple(document[name]) for name in ("names", "offsets", "sizes")}
        return cls(**{**document, **lists})

    @property
    def covered_by(self) -> str:
        """For people: what of it is kept."""
        if self.form == "kronecker":
            return "embedding" if self.diagonal_rows else "kronecker"
        return self.form


@dataclass(frozen=True)
class Layout:
    """The blocks, each parameter in one of them, in the order of θ; and whose gradients layers' inputs explain."""

    blocks: tuple[BlockLayout, ...]
    explained: frozenset[str]
    places: Mapping[str, ParameterSlice]

    @classmethod
    def found(cls, problem: Problem, rows: Rows, structure: Structure) -> Layout:
        """Of the selected parameters, with what a few rows show of them."""
        if structure == "identity":
            return cls.by_module(problem, structure)
        uses = agreeing_uses(problem, rows)
        if structure not in FACTORED:
            return replace(cls.by_module(problem, structure), explained=frozenset(uses))
        places = {each.name: each for each in problem.layout}
        found = _factored(places, uses)
        taken = {name for block in found for name in block.names}
        rest = [each for each in problem.layout if each.name not in taken]
        for layer, members in _modules(rest).items():
            known = all(each.name in uses for each in members)
            why = "" if known else UNKNOWN_USE
            found.append(_whole(layer, members, SMALL_BLOCK, why))
        blocks = sorted(found, key=lambda block: block.offsets[0])
        return cls(tuple(blocks), frozenset(uses), places)

    @classmethod
    def of_matrices(cls, problem: Problem, rows: Rows) -> Layout:
        """Every parameter as a matrix, of any side; `why` says of which gradients have to be formed, and what for."""
        uses = agreeing_uses(problem, rows)
        places = {each.name: each for each in problem.layout}
        found = _factored(places, uses, None)
        taken = {name for block in found for name in block.names}
        for each in problem.layout:
            if each.name in taken or not each.size:
                continue
            outputs = each.shape[0] if len(each.shape) > 1 else 1
            known = each.name in uses
            found.append(
                BlockLayout(
                    each.module,
                    "kronecker",
                    (each.name,),
                    (each.offset,),
                    (each.size,),
                    rows=outputs,
                    columns=each.size // outputs,
                    why="it is no matrix in all its uses" if known else UNKNOWN_USE,
                )
            )
        blocks = sorted(found, key=lambda block: block.offsets[0])
        return cls(tuple(blocks), frozenset(uses), places)

    @classmethod
    def by_module(cls, problem: Problem, structure: Structure) -> Layout:
        """One block a module with parameters, of whatever is asked for."""
        blocks = []
        for layer, members in _modules(problem.layout).items():
            if structure == "layers":
                blocks.append(_whole(layer, members, LARGE_BLOCK, ""))
            else:
                form: Form = "identity" if structure == "identity" else "diagonal"
                blocks.append(_joined(layer, form, members))
        places = {each.name: each for each in problem.layout}
        return cls(tuple(blocks), frozenset(), places)


def _factored(
    places: Mapping[str, ParameterSlice],
    uses: Mapping[str, Sequence[Use]],
    largest: int | None = LARGEST_SIDE,
) -> list[BlockLayout]:
    """The matrices whose blocks are Kronecker products, of factors up to a side."""
    blocks: list[BlockLayout] = []
    for name, place in places.items():
        own = [use for use in uses.get(name, ()) if use.names[0] == name]
        if not own or len(own) < len(uses[name]) or any(isinstance(e, BroadcastUse) for e in own):
            continue
        block = _kronecker(place, own, uses, places, largest)
        if block is not None:
            blocks.append(block)
    return blocks


def _modules(places: Sequence[ParameterSlice]) -> dict[str, list[ParameterSlice]]:
    found: dict[str, list[ParameterSlice]] = {}
    for each in places:
        found.setdefault(each.module, []).append(each)
    return found


def _whole(layer: str, members: Sequence[ParameterSlice], most: int, why: str) -> BlockLayout:
    """An exact block up to a size, else the diagonal."""
    size = sum(each.size for each in members)
    if size <= most:
        return _joined(layer, "exact", members, why)
    large = f"{size:,} parameters are more than the {most:,} of an exact block"
    return _joined(layer, "diagonal", members, f"{why}; {large}" if why else large)


def _joined(
    layer: str, form: Form, members: Sequence[ParameterSlice], why: str = ""
) -> BlockLayout:
    names = tuple(each.name for each in members)
    offsets, sizes = tuple(each.offset for each in members), tuple(each.size for each in members)
    return BlockLayout(layer, form, names, offsets, sizes, why=why)


def _kronecker(
    place: ParameterSlice,
    own: Sequence[Use],
    uses: Mapping[str, Sequence[Use]],
    places: Mapping[str, ParameterSlice],
    largest: int | None,
) -> BlockLayout | None:
    """Of a parameter that is a matrix in all its uses; None where a factor would be too large."""
    layer = place.module
    matrices = [each for each in own if isinstance(each, MatrixUse)]
    if not matrices:
        number, width = place.shape
        if largest is not None and width > largest:
            return None
        return BlockLayout(
            layer, "kronecker", (place.name,), (place.offset,), (place.size,),
            rows=number, columns=width, diagonal_rows=True,
        )  # fmt: skip
    first = matrices[0]
    if any((each.transposed, each.groups) != (first.transposed, first.groups) for each in matrices):
        return None
    if len(matrices) < len(own) and (first.transposed or first.groups > 1):
        return None
    inside = place.size // (place.shape[1] if first.transposed else place.shape[0])
    outputs = place.size // inside
    # A bias is a column where all uses of the weight have it and nothing else has.
    bias = first.bias
    alone = bias is not None and len(uses.get(bias, ())) == len(own)
    shared = len(matrices) == len(own) and all(each.bias == bias for each in matrices)
    joined = (places[bias],) if bias is not None and bias in places and alone and shared else ()
    columns = inside + len(joined)
    if largest is not None and max(outputs // first.groups, columns) > largest:
        return None
    members = (place, *joined)
    return BlockLayout(
        layer,
        "kronecker",
        tuple(each.name for each in members),
        tuple(each.offset for each in members),
        tuple(each.size for each in members),
        groups=first.groups,
        rows=outputs // first.groups,
        columns=columns,
        transposed=first.transposed,
        has_bias=bool(joined),
    )
