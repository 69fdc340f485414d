"""Factors times the gradients of rows, layer by layer: no row's whole gradient is formed.

At a layer with inputs a_t and cotangents g_t over T tokens, a factor F (out, in) meets a row in ⟨F, Σ_t g_t a_tᵀ⟩.
With m factors and B rows this is a product (m, out · in) with the rows' gradients of this layer alone, which take T
products an entry to form; or, where there is one token or one factor, Σ_t g_tᵀ (F a_t), whose product is as large and
writes less. A pass forward and back gives the inputs and cotangents of all layers, and no gradient of a weight.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from glob import escape

import torch
from torch import Tensor

from workers.engine.autodiff.gradients import per_example_gradients
from workers.engine.autodiff.layer_io import layer_io
from workers.engine.autodiff.layer_uses import agreeing_uses
from workers.engine.autodiff.uses import LookupUse, MatrixUse, Use, learnt_tokens, row_gradient
from workers.engine.model.parameters import ParameterSlice
from workers.engine.model.problem import Problem
from workers.engine.model.rows import Batch, Rows

# Numbers that are alive at once: of products of factors with inputs, which should stay in cache; of rows' gradients,
# of so few rows at least, as products with fewer are slower.
PRODUCTS_AT_ONCE = 1 << 19
GRADIENTS_AT_ONCE = 1 << 22
FEWEST_ROWS = 64
# Of θ: with less of it explained, the others' gradients cost as much as all.
LEAST_EXPLAINED = 0.5


@dataclass(frozen=True)
class ByLayers:
    """What meets rows with factors; the parameters that no layer explains, with their gradients."""

    problem: Problem
    places: dict[str, ParameterSlice]  # of the parameters that are explained
    rest: Problem | None

    @classmethod
    def found(cls, problem: Problem, rows: Rows) -> ByLayers | None:
        """By the uses that a few rows show to be right; None where they explain little of θ."""
        uses = agreeing_uses(problem, rows)
        places = {each.name: each for each in problem.layout if each.name in uses}
        if sum(each.size for each in places.values()) < LEAST_EXPLAINED * problem.size:
            return None
        names = [escape(each.name) for each in problem.layout if each.name not in uses]
        rest = None
        if names:
            rest = Problem(
                problem.module, problem.loss, names, dtype=problem.dtype, device=problem.device
            )
        return cls(problem, places, rest)

    def scores(self, factors: Tensor, batch: Batch) -> Tensor:
        """(m, p) and a batch that is `placed` to (m, B)."""
        total = factors.new_zeros(len(factors), len(batch))
        for _, found in self._of_layers(factors, batch):
            total += found
        if self.rest is not None:
            own, gradients = self._of_rest(self.rest, factors, batch)
            total += own @ gradients.T
        return total

    def scores_of_groups(
        self, factors: Tensor, batch: Batch, place: Mapping[str, int], count: int
    ) -> Tensor:
        """The same by groups of parameters, (m, B, groups); `place`: the group of each by its name."""
        total = factors.new_zeros(len(factors), len(batch), count)
        for name, found in self._of_layers(factors, batch):
            total[..., place[name]] += found
        if self.rest is not None:
            own, gradients = self._of_rest(self.rest, factors, batch)
            for each in self.rest.layout:
                here = slice(each.offset, each.offset + each.size)
                total[..., place[each.name]] += own[:, here] @ gradients[:, here].T
        return total

    def _of_layers(self, factors: Tensor, batch: Batch) -> Iterator[tuple[str, Tensor]]:
        """What each use of a parameter adds, (m, B), with the parameter's name."""
        io = layer_io(self.problem, batch, self.places)
        for use, cotangent in io.of_rows(io.cotangents(self.problem.loss, io.batch.targets)):
            for name in use.names:
                place = self.places[name]
                own = factors[:, place.offset : place.offset + place.size]
                yield name, _met(use, name, place, own, cotangent, len(batch))

    def _of_rest(self, rest: Problem, factors: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Factors and gradients of the parameters that no layer explains."""
        whole = {each.name: each for each in self.problem.layout}
        own = torch.cat(
            [
                factors[:, whole[each.name].offset : whole[each.name].offset + each.size]
                for each in rest.layout
            ],
            1,
        )
        return own, per_example_gradients(rest, batch)


def _met(
    use: Use, name: str, place: ParameterSlice, factors: Tensor, cotangent: Tensor, rows: int
) -> Tensor:
    """What this use adds to the products of factors (m, size) of one of its parameters: (m, B)."""
    if isinstance(use, LookupUse):
        return _looked_up(use, factors.unflatten(1, place.shape), cotangent, rows)
    if not isinstance(use, MatrixUse) or name == use.bias:
        return factors @ row_gradient(use, name, place.shape, cotangent, rows).T
    left, right = use.shaped(cotangent, rows), use.inputs(rows)
    if use.transposed:
        left, right = right, left
    tokens = left.shape[1]
    if use.groups == 1 and min(tokens, len(factors)) == 1:
        shaped = factors.unflatten(1, (left.shape[3], right.shape[3]))
        found = _between(shaped, left.flatten(0, 2), right.flatten(0, 2))
        return found.unflatten(1, (rows, tokens)).sum(2)
    return _by_gradients(factors, left.permute(0, 2, 3, 1), right.permute(0, 2, 1, 3))


def _between(factors: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """lᵀ F r of (m, a, b), (N, a) and (N, b): (m, N)."""
    if left.shape[1] > right.shape[1]:
        factors, left, right = factors.mT, right, left
    left, right = left.T.contiguous(), right.T.contiguous()
    result = factors.new_empty(len(factors), left.shape[1])
    step = max(1, PRODUCTS_AT_ONCE // left.numel())
    for first in range(0, len(factors), step):
        products = factors[first : first + step] @ right
        torch.sum(products.mul_(left), 1, out=result[first : first + step])
    return result


def _by_gradients(factors: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """Of (m, groups · a · b), (B, groups, a, T) and (B, groups, T, b): (m, B), a part of the gradients at a time."""
    count, groups, outputs, _ = left.shape
    inside = right.shape[3]
    result = factors.new_zeros(len(factors), count)
    wide = min(FEWEST_ROWS, count)
    # A part of the outputs is a part of the factors' numbers only where there is one group.
    part = outputs if groups > 1 else max(1, GRADIENTS_AT_ONCE // (wide * inside))
    rows = max(wide, GRADIENTS_AT_ONCE // (groups * min(part, outputs) * inside))
    for start in range(0, outputs, part):
        own = factors[:, start * inside : (start + part) * inside] if groups == 1 else factors
        for first in range(0, count, rows):
            here = slice(first, first + rows)
            gradients = left[here, :, start : start + part] @ right[here]
            result[:, here].addmm_(own, gradients.flatten(1).T)
    return result


def _looked_up(use: LookupUse, factors: Tensor, cotangent: Tensor, rows: int) -> Tensor:
    """Of an embedding's (m, number, width): each row meets what its tokens pick."""
    tokens, cotangents = learnt_tokens(use, cotangent, rows)
    step = max(1, PRODUCTS_AT_ONCE // cotangents.numel())
    found: Sequence[Tensor] = [
        (some[:, tokens] * cotangents).flatten(2).sum(2) for some in factors.split(step)
    ]
    return torch.cat(list(found))
