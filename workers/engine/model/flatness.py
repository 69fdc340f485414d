"""Directions of θ along which no row's loss changes: H is singular there, whatever the rows.

What is told is known: a parameter that no path leads to, by the graph of the losses; the others by losses in float64 at
random points, where a function that is not flat is not flat by chance.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import Tensor

from workers.engine.errors import EngineError
from workers.engine.model.parameters import ParameterSlice
from workers.engine.model.problem import Problem
from workers.engine.model.rows import Batch
from workers.engine.model.second_order import twice_differentiable

_MOST_PARAMETERS = 100_000  # selected: no (p, p) matrix is factorised above
_MOST_BYTES = 64 * 1024**2  # of all weights: each look is a forward in float64
_LOOKED_AT = 4  # parameters, the last ones: those of a head are among them
_POINTS = 2
_ROWS = 4
_ASIDE = 0.1  # how far a point is from θ, beside the size of each parameter
_SAME, _OTHER = 1e-9, 1e-4  # changes of a loss, beside 1 and the loss


@dataclass(frozen=True)
class Flatness:
    """`unused`: selected parameters that no loss depends on. `shifted`: those to all of which, along their first axis,
    the same can be added without a change of any loss. `rank_per_row`: what a row adds to the rank of H at most, where
    the outputs are linear in θ."""

    unused: list[str]
    shifted: list[str]
    rank_per_row: int | None


NOTHING_KNOWN = Flatness([], [], None)


def flatness(problem: Problem, batch: Batch) -> Flatness:
    """What some rows that the model takes show of it."""
    batch = problem.placed(batch.narrow(0, min(_ROWS, len(batch))))
    found = NOTHING_KNOWN
    with suppress(EngineError, RuntimeError, TypeError, ValueError), twice_differentiable():
        unused = _unused(problem, batch)
        found = Flatness(unused, [], None)
        weights = problem.theta.nbytes + sum(each.nbytes for each in problem.frozen.values())
        if problem.size <= _MOST_PARAMETERS and weights <= _MOST_BYTES:
            double = problem.in_double()
            looked_at = [each for each in double.layout if each.name not in unused][-_LOOKED_AT:]
            batch = double.placed(batch)
            with torch.no_grad():
                shifted = [each.name for each in looked_at if _is_shifted(double, batch, each)]
                found = Flatness(unused, shifted, _rank_per_row(double, batch))
    return found


def _unused(problem: Problem, batch: Batch) -> list[str]:
    values = problem.named(problem.theta)
    leaves = {name: value.detach().clone().requires_grad_() for name, value in values.items()}
    with torch.enable_grad():
        losses = problem.losses(problem.theta, batch, problem.outputs_of(leaves, batch))
    if not losses.requires_grad:
        return list(leaves)
    found = torch.autograd.grad(losses.sum(), list(leaves.values()), allow_unused=True)
    return [name for name, gradient in zip(leaves, found, strict=True) if gradient is None]


def _is_shifted(problem: Problem, batch: Batch, parameter: ParameterSlice) -> bool:
    """Whether the same, added along the first axis, changes no loss, where other steps do."""
    if len(parameter.shape) == 0 or parameter.shape[0] < 2:
        return False
    here = slice(parameter.offset, parameter.offset + parameter.size)
    for theta, draw in _points(problem):
        size = _size(theta[here])
        same = size * _normal((1, *parameter.shape[1:]), draw).expand(parameter.shape)
        other = size * _normal(parameter.shape, draw)
        before = problem.losses(theta, batch)
        changes = []
        for step in (same, other):
            moved = theta.clone()
            moved[here] += step.reshape(-1)
            changes.append((problem.losses(moved, batch) - before).abs() / (1 + before.abs()))
        if not (bool((changes[0] <= _SAME).all()) and bool((changes[1] > _OTHER).any())):
            return False
    return True


def _rank_per_row(problem: Problem, batch: Batch) -> int | None:
    """With outputs linear in θ, a row's H is Jᵀ A J, with A as large as the row has outputs."""
    entries = 0
    for theta, draw in _points(problem):
        step = _size(theta) * _normal(theta.shape, draw)
        first, second, third = (
            _flat(problem.outputs(theta + times * step, batch), len(batch)) for times in (0, 1, 2)
        )
        if not bool(((third - 2 * second + first).abs() <= _SAME * (1 + second.abs())).all()):
            return None
        entries = first.shape[1]
    return entries


def _points(problem: Problem) -> Iterator[tuple[Tensor, torch.Generator]]:
    draw = torch.Generator().manual_seed(0)
    for _ in range(_POINTS):
        pieces = [
            piece + _ASIDE * _size(piece) * _normal(piece.shape, draw)
            for piece in problem.named(problem.theta).values()
        ]
        yield torch.cat([piece.reshape(-1) for piece in pieces]), draw


def _normal(shape: tuple[int, ...], draw: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=draw, dtype=torch.float64)


def _size(values: Tensor) -> float:
    """The root of the mean square, and 1 where all is zero."""
    return float(values.square().mean().sqrt()) or 1.0


def _flat(outputs: object, rows: int) -> Tensor:
    tensors = outputs if isinstance(outputs, tuple | list) else (outputs,)
    return torch.cat([each.reshape(rows, -1) for each in tensors], dim=1)
