"""Whatever the progress callback raises ends the work at once and passes through untouched."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from tests.methods import METHODS, Row
from workers import engine
from workers.engine import (
    Arnoldi,
    ConjugateGradients,
    Direct,
    Hessian,
    Lissa,
    Problem,
    make_loss,
    perturbation,
    self_influence,
    up,
)

from .matrices import with_damping
from .models import make


class Stop(BaseException):
    """The caller's own; no subclass of Exception, so nothing may swallow it."""


def stopping_at(call: int) -> Callable[[str, int, int, str], None]:
    calls = 0

    def tell(stage: str, done: int, total: int, unit: str) -> None:
        nonlocal calls
        calls += 1
        if calls == call:
            raise Stop(stage)

    return tell


CASE = make("perceptron")
PROBLEM = Problem(CASE.module, make_loss(CASE.loss))
RHS = torch.ones(2, PROBLEM.size, dtype=torch.float64)


@pytest.mark.parametrize("call", [1, 3])
@pytest.mark.parametrize("row", METHODS.values(), ids=lambda row: row.name)
def test_every_method_can_be_cancelled_between_batches(row: Row, call: int) -> None:
    method = engine.METHODS[row.name](**row.full(PROBLEM.size, True))
    hessian = with_damping(
        Hessian(PROBLEM, CASE.train, batch_size=4, progress=stopping_at(call)), 10.0
    )
    with pytest.raises(Stop):
        method.solve(*hessian, RHS)
    assert hessian.passes == 0


@pytest.mark.parametrize(
    "method",
    [Direct(), ConjugateGradients(), Lissa(), Arnoldi(3)],
    ids=lambda method: type(method).__name__,
)
def test_every_method_can_be_cancelled_between_iterations(method: object) -> None:
    hessian = with_damping(Hessian(PROBLEM, CASE.train), 10.0)
    with pytest.raises(Stop):
        method.solve(*hessian, RHS, stopping_at(2))  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", [up, perturbation])
def test_influences_can_be_cancelled_between_blocks(kind: Callable[..., object]) -> None:
    blocks = kind(PROBLEM, RHS, CASE.train, batch_size=4, progress=stopping_at(2))
    with pytest.raises(Stop):
        list(blocks)  # type: ignore[call-overload]


def test_self_influence_can_be_cancelled_too() -> None:
    solve = Direct().fit(*with_damping(Hessian(PROBLEM, CASE.train), 10.0)).solve
    with pytest.raises(Stop):
        list(self_influence(PROBLEM, solve, CASE.train, batch_size=4, progress=stopping_at(2)))
