"""Weights of rows and an L2 term of the training objective: against plain autograd in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.autograd.functional import hessian, jacobian
from torch.func import functional_call
from torch.nn import functional as F

from upweight import Client, InvalidRequest, Rejected

CLOSE, DAMPING, FACTOR, ROWS, TEST = 1e-8, 1.5, 0.4, 24, 5
GENERATOR = torch.Generator().manual_seed(1)
X = torch.randn(ROWS + TEST, 4, generator=GENERATOR, dtype=torch.float64)
Y = torch.arange(ROWS + TEST) % 3
W = torch.rand(ROWS, generator=GENERATOR, dtype=torch.float64) * 3
W[3] = 0.0
RECIPE = {"optimizer": "sgd", "lr": 0.3, "epochs": 4, "batch_size": 10, "shuffle": False, "start": "warm"}  # fmt: skip
WEIGHTED = {"name": "cross_entropy", "row_weights": "w"}
PENALISED = {"name": "cross_entropy", "l2": [{"parameters": "2.*", "factor": FACTOR}]}


def network() -> nn.Module:
    torch.manual_seed(2)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()


NET = network()
THETA = torch.cat([each.detach().flatten() for each in NET.parameters()])
SIZES = [each.numel() for each in NET.parameters()]
PENALTY = torch.cat([torch.zeros(25), torch.ones(18)]).double() * FACTOR


def outputs(theta: Tensor, x: Tensor) -> Tensor:
    pieces = zip(theta.split(SIZES), NET.named_parameters(), strict=True)
    return functional_call(NET, {name: piece.view_as(p) for piece, (name, p) in pieces}, (x,))


def losses(theta: Tensor, rows: slice) -> Tensor:
    return F.cross_entropy(outputs(theta, X[rows]), Y[rows], reduction="none")


TRAIN, TESTED = slice(0, ROWS), slice(ROWS, None)


def gradients(rows: slice) -> Tensor:
    return jacobian(lambda theta: losses(theta, rows), THETA)  # type: ignore[no-any-return, no-untyped-call]


def dense(weights: Tensor, penalty: Tensor) -> Tensor:
    """The Hessian of the training objective."""

    def objective(theta: Tensor) -> Tensor:
        return (weights * losses(theta, TRAIN)).mean() + (penalty * theta.square()).sum() / 2

    return hessian(objective, THETA)  # type: ignore[no-any-return, no-untyped-call]


def gauss_newton(weights: Tensor) -> Tensor:
    found = torch.zeros(len(THETA), len(THETA), dtype=torch.float64)
    for row in range(ROWS):
        jac = jacobian(lambda theta, row=row: outputs(theta, X[row : row + 1])[0], THETA)  # type: ignore[no-untyped-call, misc]
        p = outputs(THETA, X[row : row + 1])[0].softmax(0)
        found += weights[row] * jac.T @ (p.diag() - p[:, None] * p) @ jac
    return found / ROWS


def empirical(weights: Tensor) -> Tensor:
    found = weights[:, None] * gradients(TRAIN)
    return found.T @ found / ROWS


def influences(matrix: Tensor, weights: Tensor) -> Tensor:
    damped = matrix + DAMPING * torch.eye(len(matrix), dtype=torch.float64)
    return gradients(TESTED) @ torch.linalg.solve(damped, (weights[:, None] * gradients(TRAIN)).T)


def near(found: Any, expected: Tensor) -> bool:
    return bool(np.linalg.norm(found - expected.numpy()) < CLOSE * float(expected.norm()))


@pytest.fixture(scope="module")
def data(online: Client) -> Client:
    for name, loss in (
        ("rows-weigh", WEIGHTED), ("l2-term", PENALISED), ("no-l2-term", "cross_entropy")
    ):  # fmt: skip
        online.models.register(name, NET, example=X[:2], loss=loss, recipe=RECIPE)
    given = {"x": X[:ROWS], "y": Y[:ROWS], "w": W}
    online.datasets.register("rows-weigh", **given, targets=["y", "w"])
    online.datasets.register("rows-plain", x=X[:ROWS], y=Y[:ROWS])
    online.datasets.register("objective-test", x=X[ROWS:], y=Y[ROWS:])
    return online


@pytest.mark.parametrize(
    ("options", "matrix"),
    [
        ({}, lambda: dense(W, torch.zeros(1))),
        ({"inversion_method": "cg", "rtol": 1e-12}, lambda: dense(W, torch.zeros(1))),
        ({"curvature": "gauss_newton"}, lambda: gauss_newton(W)),
        ({"curvature": "empirical_fisher"}, lambda: empirical(W)),
        (
            {"curvature": "empirical_fisher", "inversion_method": "diagonal"},
            lambda: empirical(W).diag().diag(),
        ),
        (
            {"curvature": "gauss_newton", "inversion_method": "layers"},
            lambda: torch.block_diag(gauss_newton(W)[:25, :25], gauss_newton(W)[25:, 25:]),
        ),
    ],
    ids=["hessian", "cg", "gauss-newton", "empirical", "diagonal", "layers"],
)
def test_weights_of_rows_are_in_gradients_and_in_every_curvature(
    data: Client, options: dict[str, Any], matrix: Any
) -> None:
    result = data.compute_influences(
        "rows-weigh", "rows-weigh", "objective-test", hessian_regularization=DAMPING, **options
    )
    assert near(result.numpy(), influences(matrix(), W))


def test_losses_beside_a_result_and_rows_measured_are_without_weights(data: Client) -> None:
    both = data.compute_influences(
        "rows-weigh", "rows-weigh", "rows-weigh", test_rows="0:4", hessian_regularization=DAMPING
    )
    told = both.rows(side="train", rows="0:4").items
    assert [each.loss for each in told] == pytest.approx(losses(THETA, slice(0, 4)).tolist())
    damped = dense(W, torch.zeros(1)) + DAMPING * torch.eye(len(THETA))
    solved = torch.linalg.solve(damped, (W[:, None] * gradients(TRAIN)).T)
    assert near(both.numpy(), gradients(slice(0, 4)) @ solved)


@pytest.mark.parametrize("blocks", [{}, {"train_rows": 7, "spread": True}])
def test_a_weighted_rows_influence_on_itself_is_the_diagonal_of_up(
    data: Client, blocks: dict[str, Any]
) -> None:
    """Weighted once, as the row that trains; where it is measured it has no weight."""
    damped = dense(W, torch.zeros(1)) + DAMPING * torch.eye(len(THETA))
    own = gradients(TRAIN)
    found = data.self_influences(
        "rows-weigh", "rows-weigh", hessian_regularization=DAMPING, blocks=blocks
    )
    assert near(found.numpy(), W * (own * torch.linalg.solve(damped, own.T).T).sum(1))


def test_the_pieces_of_weighted_rows_have_them(data: Client) -> None:
    found = data.compute_gradients("rows-weigh", "rows-weigh")
    assert near(found.numpy(), W[:, None] * gradients(TRAIN))
    vectors = torch.eye(len(THETA), dtype=torch.float64)[:3]
    products = data.compute_hvps("rows-weigh", "rows-weigh", vectors.numpy())
    assert near(products.numpy(), dense(W, torch.zeros(1))[:3])


@pytest.mark.parametrize("method", ["direct", "cg", "lissa"])
def test_an_l2_term_is_in_the_hessian_and_in_no_rows_gradient(data: Client, method: str) -> None:
    more = {"cg": {"rtol": 1e-12}, "lissa": {"rtol": 1e-11, "maxiter": 5000, "batch_size": ROWS}}
    result = data.compute_influences(
        "l2-term", "rows-plain", "objective-test", inversion_method=method,
        hessian_regularization=DAMPING, **more.get(method, {}),
    )  # fmt: skip
    ones = torch.ones(ROWS, dtype=torch.float64)
    assert near(result.numpy(), influences(dense(ones, PENALTY), ones))


def exact_blocks(matrix: Tensor) -> Tensor:
    return torch.block_diag(matrix[:25, :25], matrix[25:, 25:])


@pytest.mark.parametrize("blocks", [{}, {"hessian_rows": 10, "train_rows": 9, "spread": True}])
@pytest.mark.parametrize("structure", ["diagonal", "layers"])
def test_structures_have_the_l2_term_beside_what_they_keep(
    data: Client, structure: str, blocks: dict[str, Any]
) -> None:
    ones = torch.ones(ROWS, dtype=torch.float64)
    whole = empirical(ones)
    kept = whole.diag().diag() if structure == "diagonal" else exact_blocks(whole)
    result = data.compute_influences(
        "l2-term", "rows-plain", "objective-test", inversion_method=structure,
        curvature="empirical_fisher", hessian_regularization=DAMPING, blocks=blocks, reuse=False,
    )  # fmt: skip
    assert near(result.numpy(), influences(kept + PENALTY.diag(), ones))


@pytest.mark.parametrize("structure", ["kfac", "ekfac"])
def test_kronecker_factors_have_the_l2_term_of_a_layer_as_that_layers_damping(
    data: Client, structure: str
) -> None:
    vectors = torch.randn(3, len(THETA), generator=GENERATOR, dtype=torch.float64)
    options = {"curvature": {"kind": "empirical_fisher", "structure": structure}}
    found = data.compute_hvps("l2-term", "rows-plain", vectors.numpy(), **options)
    plain = data.compute_hvps("no-l2-term", "rows-plain", vectors.numpy(), **options)
    assert near(found.numpy() - plain.numpy(), vectors * PENALTY)
    result = data.compute_influences(
        "l2-term", "rows-plain", "objective-test", inversion_method=structure,
        hessian_regularization=DAMPING,
    )  # fmt: skip
    assert result.info["structure"]["l2"] == "exact"


def test_products_with_an_l2_term_have_it_in_every_kind(data: Client) -> None:
    vectors = torch.eye(len(THETA), dtype=torch.float64)
    ones = torch.ones(ROWS, dtype=torch.float64)
    for kind, matrix in (
        ("gauss_newton", gauss_newton(ones)),
        ("empirical_fisher", empirical(ones)),
    ):
        found = data.compute_hvps("l2-term", "rows-plain", vectors.numpy(), curvature=kind)
        assert near(found.numpy(), matrix + PENALTY.diag())


@pytest.mark.parametrize("name", ["rows-weigh", "l2-term"])
def test_a_retraining_minimises_the_same_objective(data: Client, name: str) -> None:
    weights = W if name == "rows-weigh" else torch.ones(ROWS, dtype=torch.float64)
    penalty = PENALTY if name == "l2-term" else torch.zeros(len(THETA), dtype=torch.float64)
    theta = THETA.clone()
    for _ in range(RECIPE["epochs"]):  # type: ignore[call-overload]
        for start in range(0, ROWS, 10):
            rows = slice(start, min(start + 10, ROWS))
            at = theta.clone().requires_grad_()
            loss = (weights[rows] * losses(at, rows)).mean() + (penalty * at.square()).sum() / 2
            (step,) = torch.autograd.grad(loss, at)
            theta = theta - 0.3 * step
    made = data.retrain(
        name, "rows-weigh" if name == "rows-weigh" else "rows-plain", test="objective-test", name=f"{name}-again"
    )  # fmt: skip
    assert made.training is not None
    assert made.training.metrics is not None
    assert made.training.metrics.loss == pytest.approx(float(losses(theta, TESTED).mean()))


def test_what_does_not_know_of_weights_or_the_term_refuses_them_by_name(data: Client) -> None:
    def refused(words: str, *names: str, **options: Any) -> None:
        with pytest.raises(InvalidRequest, match=words):
            data.compute_influences(*names, hessian_regularization=DAMPING, **options)

    refused("takes the weights of rows from 'w'", "rows-weigh", "rows-plain", "objective-test")
    weighted = ("rows-weigh", "rows-weigh", "objective-test")
    refused("draws labels, and a weighted row", *weighted, curvature="fisher")
    data.datasets.register("below-zero", x=X[:2], y=Y[:2], w=-W[:2], targets=["y", "w"])
    refused("go down to -", "rows-weigh", "below-zero", "objective-test")
    with pytest.raises(Rejected, match="'head"):
        data.models.register(
            "no-such-l2", NET, example=X[:2],
            loss={"name": "cross_entropy", "l2": [{"parameters": "head.*", "factor": 1.0}]},
        )  # fmt: skip
