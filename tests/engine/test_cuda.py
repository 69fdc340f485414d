"""The same code on a GPU: results agree with the CPU's, and nothing returns to the host on the way."""

from __future__ import annotations

import pytest
import torch

from workers.engine import (
    Arnoldi,
    ConjugateGradients,
    Direct,
    Hessian,
    Lissa,
    Problem,
    TensorRows,
    make_loss,
    perturbation,
    row_gradients,
    up,
)

from .exact import relative
from .matrices import with_damping
from .models import make

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device; none here"),
]


@pytest.mark.parametrize("name", ["perceptron", "convolutional", "encoder", "bag_of_words"])
@pytest.mark.parametrize(
    "method",
    [Direct(), ConjugateGradients(), Lissa(scale="auto", rtol=1e-9), Arnoldi(10)],
    ids=lambda method: type(method).__name__,
)
def test_influences_on_a_gpu_are_those_on_the_cpu(name: str, method: object) -> None:
    case = make(name)
    found = {}
    for device in ("cpu", "cuda"):
        problem = Problem(case.module, make_loss(case.loss), device=device)
        train = TensorRows(case.train._inputs, case.train_targets, device=device)
        test = TensorRows(case.test._inputs, case.targets[: case.test_count], device=device)
        rhs = torch.cat([each for _, each in row_gradients(problem, test)])
        factors = method.solve(*with_damping(Hessian(problem, train), 10.0), rhs).x  # type: ignore[attr-defined]
        assert factors.device.type == device
        found[device] = torch.cat([each for _, each in up(problem, factors, train)], 1).cpu()
    assert relative(found["cuda"], found["cpu"]) < 1e-6


def test_perturbation_on_a_gpu_takes_rows_from_the_host() -> None:
    case = make("convolutional")
    problem = Problem(case.module, make_loss(case.loss), device="cuda")
    factors = torch.randn(2, problem.size, dtype=torch.float64, device="cuda")
    blocks = perturbation(problem, factors, case.train)
    assert all(each.device.type == "cuda" for _, each in blocks)
