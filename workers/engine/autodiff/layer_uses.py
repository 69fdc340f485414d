"""What a few rows say of layers' inputs and cotangents: whose gradients they explain, and what they take up."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from workers.engine.autodiff.gradients import by_row
from workers.engine.autodiff.layer_io import layer_io
from workers.engine.autodiff.select import FIRST_ORDER, agrees
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
    """The uses of each parameter whose gradients they explain: on a few rows, compared with autograd's."""
    probe = problem.placed(next(iter(rows.batches(PROBE_ROWS))))
    if len(probe) == 1:
        probe = probe.doubled()
    with twice_differentiable():
        expected = by_row(problem, probe)
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
        if own and _explained(place, own, expected, probe):
            found[place.name] = [use for use, _ in own]
    return found


def _explained(
    place: ParameterSlice,
    own: Sequence[tuple[Use, Tensor | None]],
    expected: Tensor,
    probe: Batch,
) -> bool:
    here = expected[:, place.offset : place.offset + place.size]
    total = torch.zeros_like(here)
    try:
        for use, cotangent in own:
            if cotangent is not None:
                total += row_gradient(use, place.name, place.shape, cotangent, len(probe))
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        return False  # shapes that no row explains
    # Where a gradient is 0 but for rounding, as a key's bias before a softmax, both are.
    noise = ROUNDING * torch.finfo(expected.dtype).eps * float(expected.abs().max())
    if float(here.abs().max()) <= noise:
        return float(total.abs().max()) <= noise
    return agrees(total, here, FIRST_ORDER)


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
