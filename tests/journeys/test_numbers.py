"""What comes out at the far end is what the formula says: every method, type and kind, through the SDK and HTTP."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from tests.journeys.subjects import Subject
from tests.methods import METHODS
from upweight import Client, InfluenceResult

TOLERANCES = {"float64": 1e-6, "float32": 1e-4}
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, in its Hessian


def distance(found: Any, exact: Any) -> float:
    """In the norm over all entries, relative."""
    found, exact = np.asarray(found, np.float64), np.asarray(exact, np.float64)
    assert found.shape == exact.shape
    return float(np.linalg.norm(found - exact) / np.linalg.norm(exact))


def parameters(subject: Subject, method: str, precision: str) -> dict[str, Any]:
    chosen = METHODS[method].full(subject.size, precision == "float64")
    return {"inversion_method": method, "precision": precision, **chosen}


def computed(client: Client, subject: Subject, method: str, **values: Any) -> InfluenceResult:
    precision = values.pop("precision", "float64")
    return client.compute_influences(
        *subject.names,
        hessian_regularization=subject.damping,
        **parameters(subject, method, precision),
        **values,
    )


@pytest.fixture(params=["regression", "iris"])
def subject(request: pytest.FixtureRequest, online: Client) -> Subject:
    found: Subject = request.getfixturevalue(request.param)
    return found


@pytest.mark.parametrize("precision", ["float64", "float32"])
@pytest.mark.parametrize("method", ["direct", "cg", "arnoldi"])
def test_influences_of_weighting_up_are_the_stored_ones(
    online: Client, subject: Subject, method: str, precision: str
) -> None:
    result = computed(online, subject, method, precision=precision)
    assert result.dtype == np.dtype(precision)
    assert distance(result.numpy(), subject.exact["up"]) < TOLERANCES[precision]


@pytest.mark.parametrize("precision", ["float64", "float32"])
def test_lissa_comes_to_the_stored_influences(
    online: Client, regression: Subject, precision: str
) -> None:
    """Where the eigenvalues lie close together; elsewhere it takes thousands of steps to the same end."""
    result = computed(online, regression, "lissa", precision=precision)
    assert distance(result.numpy(), regression.exact["up"]) < TOLERANCES[precision]


@pytest.mark.parametrize(
    ("method", "precision"),
    [
        ("direct", "float64"),
        ("direct", "float32"),
        ("cg", "float64"),
        ("arnoldi", "float64"),
        ("lissa", "float64"),
    ],
)
def test_influences_of_perturbing_are_the_stored_ones(
    online: Client, subject: Subject, method: str, precision: str
) -> None:
    exact = subject.exact["pert"]
    result = computed(
        online, subject, method, precision=precision, influence_type="perturbation",
        test_rows=f"0:{len(exact)}",
    )  # fmt: skip
    assert distance(result.numpy(), exact) < TOLERANCES[precision]


def test_the_formula_of_these_tests_agrees_with_the_stored_influences(subject: Subject) -> None:
    """Two independent references: a mistake in this folder's formula would show here."""
    formula = subject.formula
    factors = formula.factors(subject.x_test, subject.y_test)
    up = formula.up(factors, subject.x_train, subject.y_train)
    assert distance(up, subject.exact["up"]) < 1e-9
    moved = formula.perturbation(factors[:1], subject.x_train[:4], subject.y_train[:4])
    assert distance(moved, subject.exact["pert"][:1, :4]) < 1e-9


@pytest.mark.parametrize("method", METHODS)
def test_factors_are_the_solutions_for_the_test_gradients(
    online: Client, iris: Subject, method: str
) -> None:
    result = online.compute_influence_factors(
        *iris.names, test_rows="3:9", hessian_regularization=iris.damping,
        **parameters(iris, method, "float64"),
    )  # fmt: skip
    exact = iris.formula.factors(iris.x_test[3:9], iris.y_test[3:9])
    assert distance(result.x.numpy(), exact) < 1e-6
    np.testing.assert_array_equal(result.x[1:3], result.x.numpy()[1:3])
    sizes = {"k": 6, "p": iris.size, "r": iris.size}
    for name, axes in {**METHODS[method].arrays, "residual_norms": ("k",)}.items():
        shape = result.info[name].numpy().shape
        assert shape == tuple(sizes.get(axis, shape[-1]) for axis in axes)
    assert result.info.summary.keys() >= METHODS[method].summary


@pytest.mark.parametrize("method", METHODS)
def test_right_hand_sides_of_ones_own_are_solved_for(
    online: Client, iris: Subject, method: str
) -> None:
    b = np.random.default_rng(0).normal(size=(4, iris.size))
    chosen = parameters(iris, method, "float64")
    result = online.solve_hvp(
        chosen.pop("inversion_method"), iris.name, iris.train, b,
        hessian_regularization=iris.damping, **chosen,
    )  # fmt: skip
    exact = np.linalg.solve(iris.formula.damped.numpy(), b.T).T
    assert distance(result.x.numpy(), exact) < 1e-6


def low_rank(hessian: np.ndarray[Any, Any], damping: float, b: np.ndarray[Any, Any]) -> Any:
    """Six of the largest eigenpairs, of which each is there thrice; the rest of b divided by λ."""
    values, vectors = np.linalg.eigh(hessian)
    top = np.argsort(-np.abs(values))[:6]
    inside = b @ vectors[:, top]
    outside = b - inside @ vectors[:, top].T
    return inside / (values[top] + damping) @ vectors[:, top].T + outside / damping


@pytest.mark.parametrize(
    ("chosen", "more"),
    [
        ({"inversion_method": "cg", "preconditioner": {"name": "jacobi"}}, 0.0),
        ({"inversion_method": "cg", "preconditioner": {"name": "nystroem", "rank": 4}}, 0.0),
        ({"inversion_method": "lissa", "scale": 20.0, "dampen": 0.01}, 0.2),
        ({"inversion_method": "arnoldi", "krylov_dimension": 12, "complement": True}, None),
    ],
    ids=["jacobi", "nystroem", "dampen", "complement"],
)
def test_the_other_parameters_of_a_method_do_what_they_say(
    online: Client, regression: Subject, chosen: dict[str, Any], more: float | None
) -> None:
    """`more` is added to λ: dampen times scale. None: the low-rank inverse with its complement."""
    tolerances = {
        "cg": {"rtol": 1e-10, "atol": 0.0},
        "lissa": {"maxiter": 10_000, "rtol": 1e-10},
        "arnoldi": {"rank_estimate": 6, "tol": 1e-10},
    }
    b = np.random.default_rng(1).normal(size=(3, regression.size))
    given = {**chosen, **tolerances[chosen["inversion_method"]]}
    result = online.solve_hvp(
        given.pop("inversion_method"), regression.name, regression.train, b,
        hessian_regularization=regression.damping, precision="float64", **given,
    )  # fmt: skip
    damped, identity = regression.formula.damped.numpy(), np.eye(regression.size)
    if more is None:
        hessian = damped - regression.damping * identity
        exact = low_rank(hessian, regression.damping, b)
    else:
        exact = np.linalg.solve(damped + more * identity, b.T).T
    assert distance(result.x.numpy(), exact) < 1e-6


def test_a_first_guess_that_is_the_solution_leaves_nothing_to_do(
    online: Client, iris: Subject
) -> None:
    exact = iris.formula.factors(iris.x_test, iris.y_test).numpy()
    result = online.compute_influences(
        *iris.names, inversion_method="cg", hessian_regularization=iris.damping, precision="float64",
        x0=exact, rtol=1e-8, atol=0.0,
    )  # fmt: skip
    assert result.info.summary["iterations"] == 0
    assert distance(result.numpy(), iris.exact["up"]) < 1e-6


def test_a_start_of_lissa_at_its_fixed_point_is_left_in_one_step(
    online: Client, regression: Subject
) -> None:
    b = np.random.default_rng(2).normal(size=(3, regression.size))
    exact = np.linalg.solve(regression.formula.damped.numpy(), b.T).T
    result = online.solve_hvp(
        "lissa", regression.name, regression.train, b, hessian_regularization=regression.damping,
        precision="float64", scale=20.0, h0=20.0 * exact, rtol=1e-6,
    )  # fmt: skip
    assert result.info.summary["iterations"] == 1
    assert distance(result.x.numpy(), exact) < 1e-6


def test_lissa_draws_its_batches_by_the_seed(online: Client, regression: Subject) -> None:
    b = np.random.default_rng(3).normal(size=(3, regression.size))

    def solved(seed: int, **chosen: Any) -> Any:
        return online.solve_hvp(
            "lissa", regression.name, regression.train, b, reuse=False, seed=seed,
            hessian_regularization=regression.damping, precision="float64",
            scale=20.0, maxiter=2_000, rtol=1e-10, **chosen,
        ).x.numpy()  # fmt: skip

    exact = np.linalg.solve(regression.formula.damped.numpy(), b.T).T
    half = len(regression.x_train) // 2
    first = solved(1, batch_size=half)
    np.testing.assert_array_equal(solved(1, batch_size=half), first)
    assert distance(solved(2, batch_size=half), first) > 1e-6
    assert (
        1e-6 < distance(first, exact) < 0.2
    )  # it goes about the solution, and never comes to rest
    assert distance(solved(1, batch_size=10**6), exact) < 1e-6  # all rows


def test_negative_curvature_is_reported_of_the_rows_that_met_it(
    online: Client, words: Subject
) -> None:
    hessian = words.formula.damped.numpy() - words.damping * np.eye(words.size)
    values, vectors = np.linalg.eigh(hessian)
    assert values[0] < -1e-3
    damping = -values[0] / 2
    b = np.stack([vectors[:, -1], vectors[:, 0] + vectors[:, -1]])
    result = online.solve_hvp(
        "cg", words.name, words.train, b, hessian_regularization=damping, precision="float64",
        rtol=1e-8, unsolved="keep",
    )  # fmt: skip
    assert result.info["converged"].numpy().tolist() == [True, False]
    assert np.isfinite(result.x.numpy()).all()
    assert distance(result.x.numpy()[0], b[0] / (values[-1] + damping)) < 1e-6


@pytest.mark.parametrize("method", METHODS)
def test_the_influence_of_each_row_on_itself_is_the_diagonal(
    online: Client, iris: Subject, method: str
) -> None:
    result = online.self_influences(
        iris.name, iris.train, train_rows="10:40", hessian_regularization=iris.damping,
        **parameters(iris, method, "float64"),
    )  # fmt: skip
    x, y = iris.x_train[10:40], iris.y_train[10:40]
    formula = iris.formula
    exact = formula.up(formula.factors(x, y), x, y).diagonal()
    assert result.shape == (30,)
    assert distance(result.numpy(), exact) < 1e-6


@pytest.fixture
def kept_factors(online: Client, iris: Subject) -> InfluenceResult:
    return computed(online, iris, "direct", test_rows="0:5", keep={"factors": True})


def test_factors_once_stored_serve_other_training_rows_and_the_other_type(
    online: Client, iris: Subject, kept_factors: InfluenceResult
) -> None:
    model, train, test = iris.names
    again = online.compute_influences(
        model, train, test, test_rows="0:5", train_rows="100:110,3", factors=kept_factors,
        precision="float64",
    )  # fmt: skip
    assert distance(again.numpy(), iris.exact["up"][:5, [*range(100, 110), 3]]) < 1e-6
    moved = online.compute_influences(
        model, train, test, test_rows="0:5", factors=kept_factors, precision="float64",
        influence_type="perturbation",
    )  # fmt: skip
    formula = iris.formula
    factors = formula.factors(iris.x_test[:5], iris.y_test[:5])
    exact = formula.perturbation(factors, iris.x_train, iris.y_train)
    assert distance(moved.numpy(), exact) < 1e-6
    assert moved.job.cost is not None
    assert moved.job.cost.hessian_passes == 0


def test_a_subset_is_judged_by_the_hessian_of_the_whole_dataset(
    online: Client, iris: Subject
) -> None:
    columns = [*range(20, 30), 7]
    result = computed(online, iris, "direct", train_rows="20:30,7")
    assert distance(result.numpy(), iris.exact["up"][:, columns]) < 1e-6


def test_the_hessian_is_over_the_rows_that_one_names(online: Client, iris: Subject) -> None:
    chosen = {"dataset": iris.train, "rows": "0:60"}
    result = computed(online, iris, "direct", train_rows="90:100", hessian_on=chosen)
    formula = replace(iris.formula, x=iris.x_train[:60], y=iris.y_train[:60])
    factors = formula.factors(iris.x_test, iris.y_test)
    exact = formula.up(factors, iris.x_train[90:100], iris.y_train[90:100])
    assert distance(result.numpy(), exact) < 1e-6


def test_influences_on_token_numbers_are_those_of_the_formula(
    online: Client, words: Subject
) -> None:
    formula = words.formula
    factors = formula.factors(words.x_test, words.y_test)
    exact = formula.up(factors, words.x_train, words.y_train)
    for method in ("direct", "cg"):
        assert distance(computed(online, words, method).numpy(), exact) < 1e-6


def test_perturbing_an_inner_modules_output_is_what_the_formula_says(
    online: Client, words: Subject
) -> None:
    result = computed(
        online, words, "direct", influence_type="perturbation", perturb_at="embedding",
        train_rows="0:6",
    )  # fmt: skip
    formula = words.formula
    factors = formula.factors(words.x_test, words.y_test)
    exact = torch.stack([_moved_embedding(words, factors, row) for row in range(6)], dim=1)
    assert distance(result.numpy(), exact) < 1e-6


def _moved_embedding(words: Subject, factors: torch.Tensor, row: int) -> torch.Tensor:
    """∂/∂δ of factors · ∇θ L, where δ is added to what the embedding gives: (m, tokens, 3)."""
    module = words.module
    named = dict(module.named_parameters())
    tokens, label = words.x_train[row], words.y_train[row]

    def along(delta: torch.Tensor) -> torch.Tensor:
        leaves = {name: each.detach().clone().requires_grad_() for name, each in named.items()}
        inner = (leaves["embedding.weight"][tokens] + delta).mean(0)
        hidden = torch.tanh(inner @ leaves["inner.weight"].T + leaves["inner.bias"])
        outputs = hidden @ leaves["head.weight"].T + leaves["head.bias"]
        loss = F.cross_entropy(outputs[None], label[None])
        gradients = torch.autograd.grad(loss, list(leaves.values()), create_graph=True)
        return factors @ torch.cat([each.flatten() for each in gradients])

    start = torch.zeros(len(tokens), 3, dtype=torch.float64)
    found = torch.autograd.functional.jacobian(along, start)
    assert isinstance(found, torch.Tensor)
    return found
