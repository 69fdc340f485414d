"""Sets of training rows removed together: against the dense matrices in float64, and against retraining."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import httpx2
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.autograd.functional import hessian, jacobian
from torch.nn import functional as F

from upweight import Client, errors

DAMPING, ROWS, TEST, CLASSES = 0.01, 200, 40, 3
Array = np.ndarray[Any, Any]
DRAWN = np.random.default_rng(0)
IDS = [f"digit-{row}" for row in range(ROWS)]


def trained(x: Tensor, y: Tensor, keep: Tensor) -> Tensor:
    """(C, d + 1) at the optimum of the kept rows' loss over ALL rows' number, plus λ/2 |θ|²."""
    theta = torch.zeros(CLASSES, x.shape[1] + 1, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [theta],
        max_iter=500,
        tolerance_grad=1e-12,
        tolerance_change=0,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = losses(theta, x[keep], y[keep]).sum() / len(x) + DAMPING / 2 * theta.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return theta.detach()


def losses(theta: Tensor, x: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(x @ theta[:, :-1].T + theta[:, -1], y, reduction="none")


@dataclass(frozen=True)
class Digits:
    x: Tensor
    y: Tensor
    x_test: Tensor
    y_test: Tensor
    theta: Tensor
    sets: list[list[int]]

    def dense(self, rows: Any) -> Tensor:
        """The sum of the rows' Hessians at θ, (p, p)."""

        def total(flat: Tensor) -> Tensor:
            return losses(flat.view_as(self.theta), self.x[rows], self.y[rows]).sum()

        found = hessian(total, self.theta.flatten())
        assert isinstance(found, Tensor)
        return found

    def gradients(self, x: Tensor, y: Tensor) -> Tensor:
        """(rows, p)."""

        def each(flat: Tensor) -> Tensor:
            return losses(flat.view_as(self.theta), x, y)

        found = jacobian(each, self.theta.flatten())
        assert isinstance(found, Tensor)
        return found

    @property
    def damped(self) -> Tensor:
        p = self.theta.numel()
        return self.dense(list(range(ROWS))) / ROWS + DAMPING * torch.eye(p, dtype=torch.float64)

    def plain_and_rescaled(self) -> tuple[Array, Array]:
        test, train = self.gradients(self.x_test, self.y_test), self.gradients(self.x, self.y)
        damped, plain, rescaled = self.damped, [], []
        for rows in self.sets:
            gradient = train[rows].sum(0)
            plain.append(test @ torch.linalg.solve(damped, gradient))
            left = damped - self.dense(rows) / ROWS
            rescaled.append(test @ torch.linalg.solve(left, gradient))
        return torch.stack(plain, 1).numpy(), torch.stack(rescaled, 1).numpy()


@pytest.fixture(scope="module")
def digits() -> Digits:
    # Here, as it takes seconds, which all who collect tests would take.
    from sklearn.datasets import load_digits

    data = load_digits()
    chosen = np.flatnonzero(data.target < CLASSES)[: ROWS + TEST]
    x, y = torch.tensor(data.data[chosen] / 16), torch.tensor(data.target[chosen])
    theta = trained(x[:ROWS], y[:ROWS], torch.arange(ROWS))
    ones = (y[:ROWS] == 1).nonzero().flatten().tolist()
    # Some of one class, half of all rows, one row, and rows at random, which overlap with the others.
    sets = [ones[:20], list(range(100)), [7], sorted(DRAWN.choice(ROWS, 60, False).tolist())]
    return Digits(x[:ROWS], y[:ROWS], x[ROWS:], y[ROWS:], theta, sets)


@pytest.fixture(scope="module")
def names(online: Client, digits: Digits) -> tuple[str, str, str]:
    net = nn.Linear(64, CLASSES).double()
    with torch.no_grad():
        net.weight.copy_(digits.theta[:, :-1])
        net.bias.copy_(digits.theta[:, -1])
    online.models.register("logistic", net, example=digits.x[:4], loss="cross_entropy")
    online.datasets.register("logistic-train", x=digits.x, y=digits.y, ids=IDS)
    online.datasets.register("logistic-test", x=digits.x_test, y=digits.y_test)
    return "logistic", "logistic-train", "logistic-test"


def removed(online: Client, names: tuple[str, str, str], groups: Any, **options: Any) -> Any:
    return online.compute_influences(
        *names, groups=groups, **{"hessian_regularization": DAMPING, **options}
    )


METHODS: list[dict[str, Any]] = [
    {},
    {"inversion_method": "cg", "rtol": 1e-12},
    {"curvature": "gauss_newton", "blocks": {"train_rows": 37, "test_rows": 11, "spread": True}},
]


@pytest.mark.parametrize("method", METHODS, ids=["direct", "cg", "blocks"])
def test_sets_are_summed_and_met_at_the_curvature_without_them(
    online: Client, digits: Digits, names: tuple[str, str, str], method: dict[str, Any]
) -> None:
    plain, rescaled = digits.plain_and_rescaled()
    result = removed(online, names, [[IDS[row] for row in rows] for rows in digits.sets], **method)
    assert result.groups == {"train": [0, 1, 2, 3]}
    np.testing.assert_allclose(result.numpy(), plain, rtol=1e-7, atol=1e-8)
    np.testing.assert_allclose(result.rescaled.numpy(), rescaled, rtol=1e-7, atol=1e-8)
    assert result.to_pandas("rescaled").shape == (TEST, 4)
    leverage = result.job.info["rescaled"]["largest_leverage"]
    root = torch.linalg.inv(torch.linalg.cholesky(digits.damped))
    for rows, found in zip(digits.sets, leverage, strict=True):
        taken = root @ digits.dense(rows) @ root.T / ROWS
        assert found == pytest.approx(float(torch.linalg.eigvalsh(taken)[-1]), rel=1e-8)


def test_what_rescaling_takes_is_in_the_estimate(
    online: Client, names: tuple[str, str, str]
) -> None:
    def told(groups: list[str], **options: Any) -> Any:
        return removed(online, names, groups, dry_run=True, **options).estimate

    few, many, plain = told(["0:3"]), told(["0:150"]), told(["0:3"], rescale=False)
    assert few.bytes - plain.bytes == TEST * 8  # a number a test row and set, in float64
    assert plain.flops < few.flops < many.flops
    assert few.memory_bytes < many.memory_bytes


def test_the_underestimate_of_removing_a_set_shrinks(
    online: Client,
    digits: Digits,
    names: tuple[str, str, str],
) -> None:
    result = removed(online, names, digits.sets, aggregate={"test": "mean"})
    before = losses(digits.theta, digits.x_test, digits.y_test).mean()
    for at, rows in enumerate(digits.sets):
        keep = torch.tensor([row for row in range(ROWS) if row not in set(rows)])
        theta = trained(digits.x, digits.y, keep)
        actual = float(losses(theta, digits.x_test, digits.y_test).mean() - before)
        plain = float(result.numpy()[0, at]) / ROWS
        rescaled = float(result.rescaled.numpy()[0, at]) / ROWS
        found = f"set {at}: retrained {actual:.6f}, plain {plain:.6f}, rescaled {rescaled:.6f}"
        assert abs(rescaled - actual) < abs(plain - actual), found


WRONG: list[tuple[dict[str, Any], str, str]] = [
    ({"groups": [["digit-1"], ["digit-x"]]}, "/groups/1/0", "has the id 'digit-x'; did you mean"),
    ({"groups": ["0:3,2"]}, "/groups/0", "has a row twice"),
    ({"groups": ["0:3", "500:"]}, "/groups/1", "has no rows"),
    ({"groups": ["0:3"], "influence_type": "perturbation"}, "", "use 'up'"),
    ({"groups": ["0:3"], "aggregate": {"train": "sum"}}, "", "both make the columns"),
    (
        {"groups": ["0:3"], "curvature": {"kind": "fisher", "structure": "layers"}},
        "/rescale",
        "set 'rescale' to false",
    ),
    (
        {"groups": ["0:3"], "hessian_on": {"dataset": "logistic-test"}},
        "/rescale",
        "leave 'hessian_on' out",
    ),
]


@pytest.mark.parametrize(("fields", "pointer", "words"), WRONG, ids=[each[2] for each in WRONG])
def test_sets_that_can_not_be_removed_are_refused_by_name(
    http: httpx2.Client,
    names: tuple[str, str, str],
    fields: dict[str, Any],
    pointer: str,
    words: str,
) -> None:
    model, train, test = names
    body = {
        "kind": "influences",
        "model": model,
        "train": {"dataset": train},
        "test": {"dataset": test},
        "inversion": {"method": "direct"},
        "hessian_regularization": DAMPING,
        **fields,
    }
    reply = http.post("/v1/jobs", json=body)
    assert reply.status_code == 422, reply.text
    error = reply.json()["errors"][0]
    assert (error["pointer"], words in error["detail"]) == (pointer, True), error
    if pointer == "/rescale":
        http.post("/v1/jobs", json={**body, "rescale": False}).raise_for_status()


def test_a_set_that_leaves_nothing_of_the_curvature_fails_by_name(
    online: Client, names: tuple[str, str, str]
) -> None:
    with pytest.raises(errors.ComputationFailed, match="without them nothing of the curvature"):
        removed(online, names, ["0:200"], hessian_regularization=1e-9)
