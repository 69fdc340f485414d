"""Two stored problems whose influences were made elsewhere and confirmed by retraining."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.methods import METHODS, Row
from workers import engine
from workers.engine import (
    ConjugateGradients,
    Direct,
    Hessian,
    Problem,
    TensorRows,
    make_loss,
    perturbation,
    row_gradients,
    up,
)

from .exact import relative
from .matrices import Both, with_damping

FOLDER = Path(__file__).parent / "reference"
LOSSES = {"linear-regression": "mse", "softmax-iris": "cross_entropy"}


@dataclass(frozen=True)
class Reference:
    arrays: dict[str, Tensor]
    loss: str

    def problem(self, dtype: torch.dtype) -> Problem:
        weight = self.arrays["theta.weight"]
        module = nn.Linear(weight.shape[1], weight.shape[0]).double().eval()
        module.load_state_dict({"weight": weight, "bias": self.arrays["theta.bias"]})
        return Problem(module, make_loss(self.loss), dtype=dtype)

    def rows(self, part: str) -> TensorRows:
        return TensorRows(self.arrays[f"x_{part}"], self.arrays[f"y_{part}"])

    def hessian(self, problem: Problem, batch_size: int = 100) -> Both:
        return with_damping(
            Hessian(problem, self.rows("train"), batch_size=batch_size), float(self.arrays["lam"])
        )


@pytest.fixture(params=sorted(LOSSES))
def reference(request: pytest.FixtureRequest) -> Reference:
    with np.load(FOLDER / f"{request.param}.npz") as stored:
        return Reference({n: torch.tensor(stored[n]) for n in stored.files}, LOSSES[request.param])


BOUNDS = {"direct": 1e-12, "cg": 1e-7, "lissa": 1e-5, "arnoldi": 1e-10, "nystroem": 1e-10}


def influences(reference: Reference, method: object, dtype: torch.dtype) -> Tensor:
    problem = reference.problem(dtype)
    rhs = torch.cat([each for _, each in row_gradients(problem, reference.rows("test"))])
    factors = method.solve(*reference.hessian(problem), rhs).x  # type: ignore[attr-defined]
    return torch.cat([each for _, each in up(problem, factors, reference.rows("train"))], 1)


@pytest.mark.parametrize("row", METHODS.values(), ids=lambda row: row.name)
def test_up_is_the_stored_one_by_every_method(reference: Reference, row: Row) -> None:
    method = engine.METHODS[row.name](**row.full(reference.problem(torch.float64).size, True))
    found = influences(reference, method, torch.float64)
    assert relative(found, reference.arrays["up"]) < BOUNDS[row.name]


def test_cg_with_a_recurrence_a_row_comes_to_the_stored_one(reference: Reference) -> None:
    method = ConjugateGradients(rtol=1e-10, atol=1e-14, recurrence="separate")
    found = influences(reference, method, torch.float64)
    assert relative(found, reference.arrays["up"]) < BOUNDS["cg"]


@pytest.mark.parametrize("method", [Direct(), ConjugateGradients()], ids=["direct", "cg"])
def test_single_precision_is_good_to_a_hundredth_of_a_per_cent(
    reference: Reference, method: object
) -> None:
    assert relative(influences(reference, method, torch.float32), reference.arrays["up"]) < 1e-4


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-12), (torch.float32, 1e-4)])
def test_perturbation_is_the_stored_one(
    reference: Reference, dtype: torch.dtype, bound: float
) -> None:
    problem = reference.problem(dtype)
    expected = reference.arrays["pert"]
    rhs = torch.cat([each for _, each in row_gradients(problem, reference.rows("test"))])
    factors = Direct().solve(*reference.hessian(problem), rhs[: len(expected)]).x
    blocks = perturbation(problem, factors, reference.rows("train"), batch_size=11)
    assert relative(torch.cat([each for _, each in blocks], 1), expected) < bound


def test_positive_means_that_leaving_the_row_out_raises_the_test_loss(reference: Reference) -> None:
    found = influences(reference, Direct(), torch.float64)
    retrained = (
        reference.arrays["loo"] * reference.hessian(reference.problem(torch.float64)).row_count
    )
    both = torch.stack([found.flatten(), retrained.flatten()])
    assert float(torch.corrcoef(both)[0, 1]) > 0.99
