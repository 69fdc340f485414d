"""What a few rows say of layers' inputs and cotangents: whose gradients they explain, and what they take up."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from workers.engine.autodiff.gradients import by_row
from workers.engine.autodiff.layer_io import layer_io
from workers.engine.autodiff.select import FIRST_ORDER, OTHER_DTYPES
from workers.engine.autodiff.uses import MatrixUse, Use, row_gradient
from workers.engine.model.parameters import ParameterSlice
from workers.engine.model.problem import Problem
from workers.engine.model.rows import Batch, Rows
from workers.engine.model.second_order import (
    is_out_of_memory,
    once_differentiable,
    twice_differentiable,
)

PROBE_ROWS = 3
# Numbers of a row in a layer that are alive at once: inputs, cotangents, and copies that lie otherwise.
LAYER_COPIES = 4
ROUNDING = 100.0  # times eps, of the largest entry of all gradients: below it one is as good as 0


def agreeing_uses(problem: Problem, rows: Rows) -> dict[str, list[Use]]:
    """The uses of each parameter whose gradients they explain: on a few rows, compared with autograd's.

    What is compared are sums over the rows with a weight each, so that no more than one gradient is alive.
    """
    probe = problem.placed(next(iter(rows.batches(PROBE_ROWS))))
    if len(probe) == 1:
        probe = probe.doubled()
    weights = torch.arange(2, 2 + len(probe), dtype=problem.dtype, device=problem.device).rsqrt()
    expected, largest = _weighted_sum(problem, probe, weights)
    with once_differentiable():
        try:
            io = layer_io(problem, probe)
            cotangents = io.cotangents(problem.loss, io.batch.targets)
        except Exception as error:  # a model may do anything while it is watched
            if is_out_of_memory(error):
                raise
            return {}
    found: dict[str, list[Use]] = {}
    for place in problem.layout:
        own = [
            (use, cotangent)
            for use, cotangent in zip(io.uses, cotangents, strict=True)
            if place.name in use.names
        ]
        if not own:
            continue
        here = expected[place.offset : place.offset + place.size]
        difference = _difference(place, own, here, weights)
        # Where a gradient is 0 but for rounding, as a key's bias before a softmax, both are.
        noise = ROUNDING * torch.finfo(here.dtype).eps * max(largest.values())
        bound = FIRST_ORDER.get(here.dtype, OTHER_DTYPES) * largest[place.name]
        # NaN or Inf is for whoever passes over the rows to locate.
        if not math.isfinite(largest[place.name]) or difference <= max(
            bound, noise if largest[place.name] <= noise else 0.0
        ):
            found[place.name] = [use for use, _ in own]
    # A bias is seen beside its weight alone: where that works in some other way, too, it is left out with it.
    return {
        name: own
        for name, own in found.items()
        if all(not isinstance(use, MatrixUse) or use.weight in found for use in own)
    }


def _weighted_sum(
    problem: Problem, probe: Batch, weights: Tensor
) -> tuple[Tensor, dict[str, float]]:
    """Σ w ∇L over the rows, (p,), and the largest entry of each parameter's gradient in any of them."""
    total = torch.zeros_like(problem.theta)
    largest = dict.fromkeys((place.name for place in problem.layout), 0.0)
    for position, weight in enumerate(weights.tolist()):
        with twice_differentiable():
            (gradient,) = by_row(problem, probe.narrow(position, position + 1))
        total.add_(gradient, alpha=weight)
        for place in problem.layout:
            found = float(gradient[place.offset : place.offset + place.size].abs().max())
            # NaN stays: nothing is larger than it.
            largest[place.name] = found if math.isnan(found) else max(largest[place.name], found)
    return total, largest


def _difference(
    place: ParameterSlice,
    own: Sequence[tuple[Use, Tensor | None]],
    expected: Tensor,
    weights: Tensor,
) -> float:
    """The largest entry of what the uses do not explain; infinite where shapes do not fit."""
    left, rows = expected.clone(), len(weights)
    try:
        for use, cotangent in own:
            if cotangent is not None:
                left -= weights @ row_gradient(use, place.name, place.shape, cotangent, rows)
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        return math.inf  # shapes that no row explains
    found = float(left.abs().max())
    return math.inf if math.isnan(found) else found


def bytes_of_row(problem: Problem, rows: Rows, names: Iterable[str]) -> int:
    """What one more row takes in `layer_io` of these parameters, and where the widest layer is worked on.

    That is what autograd keeps of the pass forward, the inputs of layers, and the cotangents of all outputs.
    """
    names = frozenset(names)
    sizes = [next(iter(rows.batches(size))) for size in (2, 3)[: max(1, len(rows) - 1)]]
    shapes = tuple((each.shape, each.dtype) for each in sizes[-1].inputs)

    def measured() -> int:
        found = [_numbers(problem, problem.placed(each), names) for each in sizes]
        return max(1, found[-1] - found[0] if len(found) > 1 else found[0] // 2)

    return problem.once(("bytes of a row in layers", names, shapes), measured)


def _numbers(problem: Problem, batch: Batch, names: frozenset[str]) -> int:
    seen: dict[int, Tensor] = {}

    def note(tensor: Tensor) -> int:
        seen[id(tensor)] = tensor
        return id(tensor)

    hooks = torch.autograd.graph.saved_tensors_hooks(note, seen.__getitem__)
    with once_differentiable(), hooks:
        io = layer_io(problem, batch, names)
        given = [use.inputs(len(io.batch)) for use in io.uses if isinstance(use, MatrixUse)]
        cotangents = io.cotangents(problem.loss, io.batch.targets)
    # Windows of a convolution are copied when they are needed, and gone afterwards.
    held = (each for each in given if each._is_view())
    kept = {each.untyped_storage().data_ptr(): each for each in (*seen.values(), *held)}
    total = sum(each.numel() * each.element_size() for each in kept.values())
    total += sum(each.nbytes for each in cotangents if each is not None)
    total += LAYER_COPIES * max((each.nbytes for each in given), default=0)
    seen.clear()  # nodes hold the hooks, these hold what was seen, and that holds its nodes
    return total
