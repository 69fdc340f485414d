"""Gradients of rows, and products with a curvature: against plain autograd in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev
from torch.nn import functional as F
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from tests.journeys.subjects import Subject
from upweight import Client, Conflict, InvalidRequest, NotStored

CLOSE = 1e-9
ROWS = 30


class Net(nn.Sequential):
    """Bent, so that its Hessian is none of its Gauss-Newton matrices."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))


@pytest.fixture(scope="module")
def bent(online: Client) -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(3)
    module, x = Net().double(), torch.randn(ROWS, 4, dtype=torch.float64)
    y = torch.arange(ROWS) % 3
    online.models.register("bent", module, example=x[:2], loss="cross_entropy")
    online.datasets.register("bent", x=x, y=y)
    return module, x, y


def row_gradients(module: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """(n, p), a backward pass a row."""
    found = []
    for row in range(len(x)):
        loss = F.cross_entropy(module(x[row : row + 1]), y[row : row + 1])
        found.append(parameters_to_vector(torch.autograd.grad(loss, list(module.parameters()))))
    return torch.stack(found)


def hessian(module: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """(p, p) of the mean loss."""
    names = [name for name, _ in module.named_parameters()]

    def loss(theta: Tensor) -> Tensor:
        return F.cross_entropy(functional_call(module, named(theta), (x,)), y)

    def named(theta: Tensor) -> dict[str, Tensor]:
        sizes = [each.numel() for each in module.parameters()]
        pieces = zip(theta.split(sizes), module.parameters(), strict=True)
        return dict(zip(names, (piece.view_as(each) for piece, each in pieces), strict=True))

    theta = parameters_to_vector(module.parameters()).detach()
    return jacrev(jacrev(loss))(theta)  # type: ignore[no-any-return]


def gauss_newton(module: nn.Module, x: Tensor) -> Tensor:
    """(p, p): the mean of Jᵀ (diag(p) − p pᵀ) J."""
    theta, total = parameters_to_vector(module.parameters()).detach(), 0
    for row in x:
        outputs = module(row[None])[0]
        columns = [
            torch.autograd.grad(each, list(module.parameters()), retain_graph=True)
            for each in outputs
        ]
        jacobian = torch.stack([parameters_to_vector(each) for each in columns])
        p = outputs.softmax(0).detach()
        total = total + jacobian.T @ (p.diag() - p[:, None] * p) @ jacobian
    vector_to_parameters(theta, module.parameters())
    return total / len(x)  # type: ignore[return-value, operator]


def near(found: Any, expected: Tensor) -> bool:
    return bool(np.linalg.norm(found - expected.numpy()) < CLOSE * float(expected.norm()))


def test_gradients_are_those_of_each_chosen_row(online: Client, bent: Any) -> None:
    module, x, y = bent
    result = online.compute_gradients("bent", "bent", rows="10:25")
    assert near(result.numpy(), row_gradients(module, x[10:25], y[10:25]))
    assert near(result.x[2:4], row_gradients(module, x[12:14], y[12:14]))
    assert list(result.to_pandas().index[:2]) == [10, 11]
    assert result.job.result is not None
    assert result.job.result.stored == ["gradients"]


def test_gradients_of_some_parameters_are_their_columns(online: Client, bent: Any) -> None:
    module, x, y = bent
    result = online.compute_gradients("bent", "bent", parameters=["2.*"])
    assert near(result.numpy(), row_gradients(module, x, y)[:, 4 * 5 + 5 :])
    with pytest.raises(InvalidRequest, match=r"matches 'head\.\*'; it has 0\.weight"):
        online.compute_gradients("bent", "bent", parameters=["head.*"])


def test_gradients_of_a_measurement_take_its_place(online: Client, bent: Any) -> None:
    module, x, _ = bent
    result = online.compute_gradients(
        "bent", "bent", rows="0:3", measurement={"name": "logit", "class": 1}
    )
    expected = [
        parameters_to_vector(
            torch.autograd.grad(module(row[None])[0, 1], list(module.parameters()))
        )
        for row in x[:3]
    ]
    assert near(result.numpy(), torch.stack(expected))


@pytest.mark.parametrize(
    ("curvature", "of"),
    [
        ("hessian", hessian),
        ("gauss_newton", lambda module, x, y: gauss_newton(module, x)),
        ("empirical_fisher", lambda *given: (g := row_gradients(*given)).T @ g / len(g)),
        (
            {"kind": "empirical_fisher", "structure": "diagonal"},
            lambda *given: row_gradients(*given).square().mean(0).diag(),
        ),
        (
            {"kind": "hessian", "structure": "layers"},
            lambda *given: blocks(hessian(*given), [25, 18]),
        ),
        ({"kind": "fisher", "structure": "identity"}, lambda *_: torch.eye(43).double()),
    ],
    ids=["hessian", "gauss-newton", "empirical Fisher", "diagonal", "layers", "identity"],
)  # fmt: skip
def test_products_are_those_with_the_dense_matrix(
    online: Client, bent: Any, curvature: Any, of: Any
) -> None:
    module, x, y = bent
    vectors = torch.randn(5, 43, dtype=torch.float64)
    result = online.compute_hvps(
        "bent", "bent", vectors.numpy(), train_rows="0:20", curvature=curvature, hessian_regularization=0.3
    )  # fmt: skip
    matrix = of(module, x[:20], y[:20])
    assert near(result.numpy(), vectors @ matrix + 0.3 * vectors)


def blocks(matrix: Tensor, sizes: list[int]) -> Tensor:
    parts = [
        block[i]
        for i, block in enumerate([piece.split(sizes, 1) for piece in matrix.split(sizes, 0)])
    ]
    return torch.block_diag(*parts)


@pytest.mark.parametrize("structure", ["kfac", "ekfac"])
def test_products_of_kronecker_factors_undo_their_solutions(
    online: Client, bent: Any, structure: str
) -> None:
    curvature = {"kind": "empirical_fisher", "structure": structure}
    given = {"curvature": curvature, "hessian_regularization": 0.1}
    vectors = torch.randn(2, 43, dtype=torch.float64)
    solved = online.solve_hvp("direct", "bent", "bent", vectors.numpy(), **given)
    again = online.compute_hvps("bent", "bent", solved, **given)
    assert near(again.numpy(), vectors)


def test_a_jobs_gradients_are_right_hand_sides_that_meet_the_training_rows(
    online: Client, bent: Any
) -> None:
    module, x, y = bent
    gradients = online.compute_gradients("bent", "bent", rows="0:4")
    solved = online.solve_hvp("direct", "bent", "bent", gradients, hessian_regularization=2.0)
    result = online.compute_influences("bent", "bent", factors=solved)
    every = row_gradients(module, x, y)
    damped = hessian(module, x, y) + 2.0 * torch.eye(43)
    assert near(result.numpy(), every[:4] @ torch.linalg.solve(damped, every.T))
    back = online.compute_hvps("bent", "bent", solved, hessian_regularization=2.0)
    assert near(back.numpy(), every[:4])


def test_gradients_as_factors_meet_gradients(online: Client, bent: Any) -> None:
    module, x, y = bent
    gradients = online.compute_gradients("bent", "bent", rows="0:4")
    result = online.compute_influences("bent", "bent", factors=gradients)
    every = row_gradients(module, x, y)
    assert near(result.numpy(), every[:4] @ every.T)
    assert result.top(test=0, k=1).items[0].column == int((every[0] @ every.T).argmax())
    record = result.job
    assert record.factors_of is not None
    assert (record.factors_of.kind, record.request.curvature.structure) == ("gradients", "identity")
    assert record.verdict is not None
    assert "Nothing was solved" in record.verdict.solved.text


def test_vectors_are_rows_of_a_dataset_which_stays_while_the_job_does(
    online: Client, bent: Any, fresh_name: str
) -> None:
    module, x, y = bent
    vectors = torch.randn(5, 43, dtype=torch.float64)
    probes = online.datasets.register(fresh_name, v=vectors, inputs=["v"], targets=[])
    found = online.compute_hvps("bent", "bent", probes, hessian_regularization=0.5)
    assert near(found.numpy(), vectors @ hessian(module, x, y) + 0.5 * vectors)
    with pytest.raises(Conflict, match=found.id):
        online.datasets.delete(probes.id)
    with pytest.raises(
        InvalidRequest, match=r"has the inputs x float64 \[4\]; one is wanted, of 43"
    ):
        online.compute_hvps("bent", "bent", online.datasets.get("bent"))


def test_vectors_that_do_not_fit_are_refused_before_a_worker_has_them(
    online: Client, bent: Any, iris: Subject
) -> None:
    part = online.compute_gradients("bent", "bent", rows="0:2", parameters="2.*")
    other = online.compute_gradients(iris.name, iris.train, rows="0:2")
    for vectors in (part, other):
        with pytest.raises(InvalidRequest, match="and the model selects 43"):
            online.compute_hvps("bent", "bent", vectors)
    with pytest.raises(InvalidRequest, match="and the model selects 43"):
        online.solve_hvp("direct", "bent", "bent", part, hessian_regularization=1.0)
    with pytest.raises(InvalidRequest, match="without 'parameters'"):
        online.compute_influences("bent", "bent", factors=part)
    with pytest.raises(InvalidRequest, match=r"must be \(vectors, 43\)"):
        online.compute_hvps("bent", "bent", np.ones((2, 3)))
    scores = online.compute_influences(
        iris.name, iris.train, iris.test, hessian_regularization=1.0, test_rows="0:2"
    )
    with pytest.raises(NotStored, match="no factors and no gradients"):
        online.compute_hvps(iris.name, iris.train, scores)
    with pytest.raises(InvalidRequest, match="use 'float32' or 'float64'"):
        online.compute_gradients("bent", "bent", precision="tf32")  # type: ignore[arg-type]
