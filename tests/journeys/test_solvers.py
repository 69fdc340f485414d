"""What a method cannot solve it says, and what it solves is what numpy says, in one task and spread over workers."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
import torch
from torch import nn

from tests.journeys.test_numbers import distance
from upweight import Client, FactorsResult, errors

SPREAD: list[dict[str, Any]] = [{}, {"blocks": {"spread": True, "rhs_rows": 2, "train_rows": 20}}]
everywhere = pytest.mark.parametrize("cut", SPREAD, ids=["one task", "spread"])


@dataclass(frozen=True)
class Problem:
    """A registered model and its only dataset, both of this name; its gradients (n, p) and H by formula."""

    name: str
    gradients: np.ndarray[Any, Any]
    hessian: np.ndarray[Any, Any]

    def factors(self, damping: float) -> np.ndarray[Any, Any]:
        """(H + λI)⁻¹ ∇L, (n, p)."""
        damped = self.hessian + damping * np.eye(len(self.hessian))
        return np.linalg.solve(damped, self.gradients.T).T


@pytest.fixture(scope="module", params=[1e-6, 1e-12])
def small(online: Client, request: pytest.FixtureRequest) -> Problem:
    """A fitted linear regression with targets of this size."""
    generator = np.random.default_rng(2)
    x = generator.normal(size=(60, 3)).astype("f4")
    noise = 0.1 * generator.normal(size=60)
    y = (request.param * (x @ [1.0, -2.0, 0.5] + noise)).astype("f4")[:, None]
    design = np.c_[x, np.ones(60)].astype(float)
    weights = np.linalg.lstsq(design, y.astype(float))[0].astype("f4")
    net = nn.Linear(3, 1)
    with torch.no_grad():
        net.weight.copy_(torch.tensor(weights[:3].T))
        net.bias.copy_(torch.tensor(weights[3]))
    name = f"small-losses-{request.param}"
    online.models.register(name, net, example=torch.tensor(x[:2]), loss="mse")
    online.datasets.register(name, x=x, y=y)
    gradients = 2 * (design @ weights.astype(float) - y) * design
    return Problem(name, gradients, 2 * design.T @ design / 60)


@pytest.mark.parametrize("method", ["direct", "cg"])
@everywhere
def test_small_losses_are_solved_to_the_same_relative_accuracy(
    online: Client, small: Problem, cut: dict[str, Any], method: str
) -> None:
    found = online.compute_influences(
        *[small.name] * 3, test_rows="0:5", inversion_method=method, hessian_regularization=0.01, **cut
    ).numpy()  # fmt: skip
    exact = small.factors(0.01)[:5] @ small.gradients.T
    for row, expected in zip(found, exact, strict=True):
        # The residuals of the fit, a tenth of the targets and less, are differences in float32.
        assert distance(row, expected) < 1e-4


def test_eigenpairs_found_under_a_large_damping_serve_a_small_one(online: Client) -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.rand(200, 10, generator=generator), torch.randint(0, 5, (200,))
    net = nn.Linear(10, 5)
    online.models.register("large-damping", net, example=x[:2], loss="cross_entropy")
    online.datasets.register("large-damping", x=x, y=y)
    with torch.no_grad():
        p = torch.softmax(net(x).double(), 1)
    design = torch.cat([x, torch.ones(200, 1)], 1).double()
    inner = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    blocks = torch.einsum("nij,nk,nl->ikjl", inner, design, design) / 200
    # θ is all weights, output by output, then all biases.
    order = [11 * i + k for i in range(5) for k in range(10)] + [11 * i + 10 for i in range(5)]
    hessian = blocks.reshape(55, 55)[order][:, order].numpy()
    values, vectors = np.linalg.eigh(hessian)
    b = np.random.default_rng(0).normal(size=(8, 55))
    for rank, first in ((20, 1e1), (21, 1e3), (22, 1e5)):
        for damping in (first, 1e-2):
            result = online.solve_hvp(
                "arnoldi",
                "large-damping",
                "large-damping",
                b,
                hessian_regularization=damping,
                rank_estimate=rank,
            )
            top = np.abs(values).argsort()[::-1][:rank]
            exact = (b @ vectors[:, top] / (values[top] + damping)) @ vectors[:, top].T
            assert distance(result.x.numpy(), exact) < 1e-4
            assert result.info["converged"]


@pytest.fixture(scope="module")
def two_classes(online: Client) -> Problem:
    """Softmax regression on two classes: H has half rank, and gradients lie in its range."""
    x = torch.rand(20, 6, generator=torch.Generator().manual_seed(24))
    y = torch.arange(20) % 2
    torch.manual_seed(24)
    net = nn.Linear(6, 2)
    online.models.register("two-classes", net, example=x[:2], loss="cross_entropy")
    online.datasets.register("two-classes", x=x, y=y)
    design = torch.cat([x, torch.ones(20, 1)], 1).double().numpy()
    with torch.no_grad():
        p = torch.softmax(net.double()(x.double()), 1).numpy()
    order = [7 * i + k for i in range(2) for k in range(6)] + [6, 13]
    gradients = np.einsum("ni,nk->nik", p - np.eye(2)[y.numpy()], design).reshape(20, 14)
    inner = np.einsum("ni,ij->nij", p, np.eye(2)) - p[:, :, None] * p[:, None, :]
    hessian = np.einsum("nij,nk,nl->ikjl", inner, design, design).reshape(14, 14) / 20
    return Problem("two-classes", gradients[:, order], hessian[order][:, order])


@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize("rank", [7, 13, 14, 50])
def test_arnoldi_is_exact_on_two_classes(
    online: Client, two_classes: Problem, rank: int, precision: str
) -> None:
    """50 is more than the 14 eigenpairs there are."""
    for damping in (1e-2, 1.0, 1e3):
        result = online.compute_influences(
            *["two-classes"] * 3, inversion_method="arnoldi", rank_estimate=rank,
            hessian_regularization=damping, precision=precision, reuse=False,
        )  # fmt: skip
        exact = two_classes.factors(damping) @ two_classes.gradients.T
        assert distance(result.numpy(), exact) < (1e-4 if precision == "float32" else 1e-8)
    assert ("note" in result.info) == (rank == 50)


NEGATIVE: dict[str, dict[str, Any]] = {
    "direct": {},
    "cg": {"rtol": 1e-5},
    "lissa": {"scale": "auto", "maxiter": 5000},
    "arnoldi": {"rank_estimate": 10_000},
}


class Sine(nn.Module):
    """H is diag(−sin w): as far from a minimum as can be."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor([1.0139, 0.8988]))

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return torch.sin(self.w).sum() * x[:, 0]


@pytest.fixture(scope="module")
def sine(online: Client) -> None:
    """The model and its only dataset are called sine."""
    ones = torch.ones(40, 1)
    online.models.register("sine", Sine(), example=(ones[:2], ones[:2]), loss="program")
    online.datasets.register("sine", x=ones, y=ones)


@pytest.mark.parametrize("method", ["direct", "arnoldi", "cg"])
def test_negative_curvature_is_kept_where_that_is_asked_for(
    online: Client, sine: None, method: str
) -> None:
    given = {"unsolved": "keep", "hessian_regularization": 0.0} | NEGATIVE[method]
    kept = online.solve_hvp(method, "sine", "sine", np.ones((1, 2)), **given)
    assert kept.info["statuses"] == {"negative_curvature": 1}
    exact = -1 / np.sin([1.0139, 0.8988])
    assert (distance(kept.x.numpy()[0], exact) < 1e-5) == (method != "cg")


@pytest.mark.parametrize("method", NEGATIVE)
@pytest.mark.parametrize(
    ("kind", "cut"),
    [
        ("influences", {}),
        ("influences", SPREAD[1]),
        ("perturbation", {}),
        ("factors", SPREAD[1]),
        ("ihvp", {}),
        ("ihvp", SPREAD[1]),
        ("self_influences", {}),
        ("self_influences", SPREAD[1]),
    ],
)
def test_negative_curvature_fails_a_job_with_a_damping_that_does(
    online: Client, sine: None, method: str, kind: str, cut: dict[str, Any]
) -> None:

    def run(damping: float, **more: Any) -> Any:
        given = {"hessian_regularization": damping, "precision": "float64"} | NEGATIVE[method]
        given |= more | cut
        if kind == "ihvp":
            return online.solve_hvp(method, *["sine"] * 2, np.ones((4, 2)), **given)
        given["inversion_method"] = method
        if kind == "self_influences":
            return online.self_influences(*["sine"] * 2, train_rows="0:4", **given)
        if kind == "factors":
            return online.compute_influence_factors(*["sine"] * 3, test_rows="0:4", **given)
        more = {"influence_type": "perturbation"} if kind == "perturbation" else {}
        return online.compute_influences(*["sine"] * 3, test_rows="0:4", **given, **more)

    with pytest.raises(errors.ComputationFailed, match="indefinite") as caught:
        run(0.1)
    named = re.search(r"a hessian_regularization of (\S+) (?:would|should) do", str(caught.value))
    assert named is not None
    assert "/hessian_regularization" in str(caught.value.errors)
    assert np.isfinite(np.asarray(run(float(named[1])).info["worst_residual_norm"]))


@pytest.fixture(scope="module")
def solved(online: Client, two_classes: Problem) -> FactorsResult:
    """Factors of five rows, by cg with λ 0.006."""
    return online.compute_influence_factors(
        *["two-classes"] * 3, test_rows="0:5", inversion_method="cg", rtol=1e-6,
        hessian_regularization=0.006, precision="float64",
    )  # fmt: skip


@everywhere
def test_a_job_with_factors_of_another_says_with_which_damping_and_method_they_were_solved(
    online: Client, two_classes: Problem, solved: FactorsResult, cut: dict[str, Any]
) -> None:
    result = online.compute_influences(
        *["two-classes"] * 3, test_rows="0:5", factors=solved, precision="float64", **cut
    )
    exact = two_classes.factors(0.006)[:5] @ two_classes.gradients.T
    assert distance(result.numpy(), exact) < 1e-4
    request = result.job.request
    assert request.hessian_regularization == 0.006
    assert request.inversion == solved.job.request.inversion
    told = result.job.factors_of
    assert told is not None
    assert (told.job, told.kind, told.method) == (solved.id, "factors", "cg")
    assert (told.rows, told.statuses) == ("test rows", {"converged": 5})
    # What "start one like it" sends.
    again = online.jobs.create(request.model_dump(mode="json"))
    assert again.request == request


@pytest.mark.parametrize(
    ("given", "pointer", "words"),
    [
        ({"hessian_regularization": 0.1}, "/hessian_regularization", "with λ 0.006, not 0.1"),
        ({"hessian_regularization": 0.0}, "/hessian_regularization", "with λ 0.006, not 0"),
        ({"inversion_method": "direct"}, "/inversion/method", "with method 'cg', not 'direct'"),
        (
            {"inversion_method": "cg", "rtol": 1e-3},
            "/inversion/rtol",
            "with rtol 1e-06, not 0.001",
        ),
        ({"hessian_on": {"dataset": "two-classes", "rows": "0:9"}}, "/hessian_on", "over rows all"),
        ({"test_rows": "0:4"}, "/factors", "rows 0:5"),
    ],
)
def test_what_disagrees_with_the_factors_is_refused(
    online: Client, solved: FactorsResult, given: dict[str, Any], pointer: str, words: str
) -> None:
    with pytest.raises(errors.InvalidRequest) as caught:
        online.compute_influences(
            *["two-classes"] * 3, factors=solved, **({"test_rows": "0:5"} | given)
        )
    assert words in str(caught.value)
    assert caught.value.errors[0].pointer == pointer


def test_what_agrees_with_the_factors_may_be_given(online: Client, solved: FactorsResult) -> None:
    result = online.compute_influences(
        *["two-classes"] * 3, test_rows="0:5", factors=solved, inversion_method="cg",
        hessian_regularization=0.006,
    )  # fmt: skip
    assert result.job.request.hessian_regularization == 0.006


@pytest.fixture(scope="module")
def of_ones_own(online: Client, two_classes: Problem) -> tuple[FactorsResult, np.ndarray[Any, Any]]:
    """Solutions for three right-hand sides b, and bᵀ (H + λI)⁻¹ ∇L(z_train)."""
    b = np.random.default_rng(3).normal(size=(3, 14))
    factors = online.solve_hvp(
        "direct", "two-classes", "two-classes", b, hessian_regularization=0.1, precision="float64"
    )
    inverse = np.linalg.solve(two_classes.hessian + 0.1 * np.eye(14), b.T).T
    return factors, inverse @ two_classes.gradients.T


@everywhere
def test_a_measurement_of_ones_own_meets_training_rows(
    online: Client, of_ones_own: tuple[FactorsResult, np.ndarray[Any, Any]], cut: dict[str, Any]
) -> None:
    """b is the gradient of whatever one likes at θ; the answer is bᵀ (H + λI)⁻¹ ∇L(z_train)."""
    factors, exact = of_ones_own
    result = online.compute_influences(
        *["two-classes"] * 3, test_rows="0:3", factors=factors, precision="float64",
        keep={"matrix": True, "top": 4, "mean": True}, **cut,
    )  # fmt: skip
    assert distance(result.numpy(), exact) < 1e-8
    assert distance(result.mean(), exact.mean(0)) < 1e-8
    told = result.job.factors_of
    assert told is not None
    assert (told.kind, told.rows) == ("ihvp", "right-hand sides")
    with pytest.raises(errors.InvalidRequest, match="solutions for 3 right-hand sides") as caught:
        online.compute_influences(*["two-classes"] * 3, factors=factors)
    assert caught.value.errors[0].pointer == "/test/rows"


@everywhere
def test_a_measurement_of_ones_own_needs_no_test_rows(
    online: Client,
    of_ones_own: tuple[FactorsResult, np.ndarray[Any, Any]],
    cut: dict[str, Any],
    tmp_path: Path,
) -> None:
    factors, exact = of_ones_own
    result = online.compute_influences(
        *["two-classes"] * 2, factors=factors, precision="float64",
        keep={"matrix": True, "top": 4, "mean": True}, **cut,
    )  # fmt: skip
    assert (result.job.test_id, result.job.request.test) == (None, None)
    assert distance(result.numpy(), exact) < 1e-8
    assert distance(result.mean(), exact.mean(0)) < 1e-8
    assert [each.column for each in result.top(1, k=1).items] == [int(exact[1].argmax())]
    table = result.to_arrow()
    assert table.column_names == ["row", "train", "influence"]
    assert table["row"].unique().to_pylist() == [0, 1, 2]
    assert "right-hand side" in result._repr_html_()
    result.plot("heatmap", tmp_path / "heat.png")
    with pytest.raises(errors.NotStored, match="no test rows"):
        result.rows(side="test")
    assert len(result.rows(side="train", limit=5).items) == 5


def test_the_test_rows_of_factors_are_theirs_where_none_are_given(
    online: Client, two_classes: Problem
) -> None:
    earlier = online.compute_influence_factors(
        *["two-classes"] * 3, test_rows="2:7", hessian_regularization=0.1, precision="float64"
    )
    result = online.compute_influences(*["two-classes"] * 2, factors=earlier, precision="float64")
    assert distance(result.numpy(), two_classes.factors(0.1)[2:7] @ two_classes.gradients.T) < 1e-8
    assert result.job.test_id == earlier.job.test_id
    assert [row.row for row in result.rows(side="test").items] == [2, 3, 4, 5, 6]
    with pytest.raises(errors.InvalidRequest, match="'test_rows' picks rows of 'test'"):
        online.compute_influences(*["two-classes"] * 2, factors=earlier, test_rows="0:2")


def test_an_inversion_is_left_out_with_factors_alone(http: httpx2.Client) -> None:
    rows = {"dataset": "two-classes"}
    answer = http.post(
        "/v1/jobs", json={"kind": "influences", "model": "two-classes", "train": rows, "test": rows}
    )
    assert answer.status_code == 422
    assert [error["pointer"] for error in answer.json()["errors"]] == ["/inversion"]
