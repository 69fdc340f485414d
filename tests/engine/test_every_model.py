"""Whatever torch model: gradients, Hessian and both influences are those of plain autograd."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import Tensor

from workers.engine import (
    Direct,
    Hessian,
    Problem,
    check_problem,
    make_loss,
    perturbation,
    row_gradients,
    up,
)

from .exact import Exact, relative
from .matrices import with_damping
from .models import CASES, Case, make

DAMPING = 10.0  # above the most negative eigenvalue of these untrained models


every_model = pytest.mark.parametrize("name", sorted(CASES))


@cache
def exact_of(name: str) -> Exact:
    return Exact(make(name))


def problem_of(case: Case, dtype: torch.dtype = torch.float64) -> Problem:
    return Problem(case.module, make_loss(case.loss), case.parameters, dtype=dtype)


def influences(case: Case, dtype: torch.dtype) -> Tensor:
    problem = problem_of(case, dtype)
    hessian = with_damping(Hessian(problem, case.train, batch_size=4), DAMPING)
    rhs = torch.cat([each for _, each in row_gradients(problem, case.test)])
    factors = Direct().solve(*hessian, rhs).x
    return torch.cat([each for _, each in up(problem, factors, case.train, batch_size=5)], 1)


@every_model
def test_gradients_are_those_of_single_rows(name: str) -> None:
    case, exact = make(name), exact_of(name)
    problem = problem_of(case)
    found = torch.cat([each for _, each in row_gradients(problem, case.train, batch_size=4)])
    assert relative(found, exact.gradients(exact.train_rows)) < 1e-12


@every_model
def test_the_dense_hessian_is_that_of_autograd(name: str) -> None:
    case = make(name)
    found = with_damping(Hessian(problem_of(case), case.train, batch_size=4), DAMPING).dense()
    assert relative(found, exact_of(name).hessian) < 1e-11


@every_model
def test_up_is_exact_in_double_precision(name: str) -> None:
    assert relative(influences(make(name), torch.float64), exact_of(name).up(DAMPING)) < 1e-8


@every_model
def test_up_holds_in_single_precision(name: str) -> None:
    assert relative(influences(make(name), torch.float32), exact_of(name).up(DAMPING)) < 1e-4


@pytest.mark.parametrize("name", sorted(set(CASES) - {"bag_of_words"}))
def test_perturbation_is_exact(name: str) -> None:
    case, exact = make(name), exact_of(name)
    factors = exact.factors(DAMPING)
    blocks = perturbation(problem_of(case), factors, case.train, batch_size=3)
    found = torch.cat([each for _, each in blocks], 1)
    assert found.shape == (case.test_count, case.train_count, *case.inputs[0].shape[1:])
    assert relative(found, exact.perturbation(factors)) < 1e-8


@every_model
def test_check_accepts_every_model(name: str) -> None:
    case = make(name)
    check_problem(problem_of(case), next(case.train.batches(4)))
