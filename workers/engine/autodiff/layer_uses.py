"""Whose gradients layers' inputs and cotangents explain: found on a few rows, by comparison with autograd's."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from workers.engine.autodiff.gradients import by_row
from workers.engine.autodiff.layer_io import Use, layer_io, row_gradient
from workers.engine.autodiff.select import FIRST_ORDER, agrees
from workers.engine.model.parameters import ParameterSlice
from workers.engine.model.problem import Problem
from workers.engine.model.rows import Batch, Rows
from workers.engine.model.second_order import is_out_of_memory, twice_differentiable

PROBE_ROWS = 3
ROUNDING = 100.0  # times eps, of the largest entry of all gradients: below it one is as good as 0


def agreeing_uses(problem: Problem, rows: Rows) -> dict[str, list[Use]]:
    """The uses of each parameter whose gradients they explain: on a few rows, compared with autograd's."""
    probe = problem.placed(next(iter(rows.batches(PROBE_ROWS))))
    if len(probe) == 1:
        probe = probe.doubled()
    with twice_differentiable():
        expected = by_row(problem, probe)
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
