"""The preconditioner from the Gauss-Newton matrix: what it is, where it is used, what it saves."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.engine.exact import Exact, relative, worst_row
from tests.engine.matrices import Both, with_damping
from tests.engine.models import make
from workers.engine import (
    ConjugateGradients,
    Damped,
    Hessian,
    Problem,
    Recycled,
    TensorRows,
    make_loss,
)
from workers.engine.autodiff.graph.roots import roots
from workers.engine.autodiff.graph.trace import traced
from workers.engine.gauss_newton import DualGaussNewton, dual, dual_gauss_newton, sizes
from workers.engine.gauss_newton.scan import Longest
from workers.engine.inversion.preconditioner import IDENTITY
from workers.engine.model.rows import Rows
from workers.engine.operators import Metric
from workers.engine.progress import silent

DAMPING = 0.05


@settings(deadline=None, max_examples=10)
@given(st.integers(1, 6), st.integers(0, 6), st.integers(0, 1000))
def test_roots_make_up_a_semidefinite_matrix(width: int, rank: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    half = torch.randn(4, width, rank, generator=generator, dtype=torch.float64)
    found = roots(half @ half.mT)
    torch.testing.assert_close(found.mT @ found, half @ half.mT, rtol=1e-10, atol=1e-10)
    assert int((found != 0).any(2).sum(1).max()) <= rank


def test_roots_of_an_indefinite_matrix_are_finite() -> None:
    assert bool(torch.isfinite(roots(torch.tensor([[[1.0, 2.0], [2.0, 1.0]]]))).all())


@pytest.fixture
def everything(monkeypatch: pytest.MonkeyPatch) -> None:
    """All columns are kept, of however small a model."""
    monkeypatch.setattr(dual, "SHORTEST", 0.0)
    monkeypatch.setattr(dual, "FEWEST_COLUMNS", 1)
    monkeypatch.setattr(sizes.Sizes, "pays", lambda *_: True)


def made(problem: Problem, rows: Rows, damping: float = DAMPING) -> DualGaussNewton | None:
    graph = traced(problem)
    assert graph is not None
    return dual_gauss_newton(
        problem, graph, rows, damping, 1000.0, budget_bytes=1 << 30, progress=silent
    )


def gauss_newton(exact: Exact) -> Tensor:
    """(1/n) Σ Jᵀ S J by autograd's own functions, a row at a time."""
    total = torch.zeros(len(exact.theta), len(exact.theta), dtype=torch.float64)
    for row in exact.train_rows:
        inputs = tuple(each[row : row + 1] for each in exact.case.inputs)
        target = exact.case.targets[row : row + 1]

        def outputs(theta: Tensor, inputs: tuple[Tensor, ...] = inputs) -> Tensor:
            return exact.outputs(theta, inputs).flatten()

        def loss(values: Tensor, target: Tensor = target) -> Tensor:
            return exact.case.reference_loss(values.unsqueeze(0), target)

        jacobian = torch.autograd.functional.jacobian(outputs, exact.theta)
        at = outputs(exact.theta).detach()
        curvature = torch.autograd.functional.hessian(loss, at)
        total += jacobian.T @ curvature @ jacobian
    return total / exact.case.train_count


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(
    "name",
    [
        "linear_regression",
        "softmax_regression",
        "perceptron",
        "convolutional",
        "tied",
        "bag_of_words",
        "masked_pair",
        "only_the_head",
    ],
)
@pytest.mark.usefixtures("everything")
def test_with_all_columns_it_is_the_inverse_of_the_gauss_newton_matrix(
    name: str, dtype: torch.dtype
) -> None:
    case = make(name)
    problem = Problem(case.module, make_loss(case.loss), case.parameters, dtype=dtype)
    found = made(problem, case.train)
    assert found is not None
    units = torch.eye(problem.size, dtype=torch.float64)
    exact = gauss_newton(Exact(case))
    assert float(found.row_traces.sum()) == pytest.approx(float(exact.trace()), rel=1e-5)
    expected = torch.linalg.inv(exact + DAMPING * units)
    inverse = found.apply(units.to(dtype))
    assert relative(inverse, expected) < (1e-9 if dtype == torch.float64 else 1e-3)
    if dtype == torch.float64:
        torch.testing.assert_close(inverse, inverse.T, rtol=0.0, atol=1e-10)
        assert float(torch.linalg.eigvalsh(inverse)[0]) > 0.0


@pytest.mark.usefixtures("everything")
def test_layers_as_outer_products_are_what_written_out_columns_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    case = make("perceptron")
    problem = Problem(case.module, make_loss(case.loss))
    vectors = torch.randn(3, problem.size, dtype=torch.float64)
    outer = made(problem, case.train)
    monkeypatch.setattr(dual, "are_outer", lambda _: False)
    written = made(problem, case.train)
    assert outer is not None
    assert written is not None
    assert set(written.tensors()) == {"factor", "columns", "row_traces"}
    assert "inputs_2" in outer.tensors()
    torch.testing.assert_close(outer.apply(vectors), written.apply(vectors))
    torch.testing.assert_close(outer.row_traces, written.row_traces)


@settings(deadline=None, max_examples=10)
@given(st.lists(st.integers(0, 50), min_size=1, max_size=60), st.integers(1, 60), st.integers(1, 9))
def test_the_longest_are_kept_however_they_come(lengths: list[int], piece: int, most: int) -> None:
    squares = torch.tensor(lengths, dtype=torch.float64)
    longest = Longest(least=10.0, most=most)
    for part in torch.split(squares, piece):
        longest.add(part, [part.clone()])
    expected = sorted((each for each in lengths if each > 10), reverse=True)[:most]
    if not expected:
        assert not longest.squares
        return
    longest.shrink()
    assert sorted(longest.pieces[0][0].tolist(), reverse=True) == expected
    assert longest.share == pytest.approx(sum(expected) / sum(lengths))


@cache
def trained() -> tuple[nn.Module, TensorRows, Tensor]:
    """1,097 parameters, 800 rows of which most are sure, 10 right-hand sides."""
    torch.manual_seed(5)
    centres = 0.8 * torch.randn(5, 20)
    targets = torch.arange(800) % 5
    inputs = centres[targets] + torch.randn(800, 20)
    module = nn.Sequential(nn.Linear(20, 42), nn.ReLU(), nn.Linear(42, 5))
    optimiser = torch.optim.Adam(module.parameters(), lr=1e-2)
    for _ in range(150):
        optimiser.zero_grad()
        torch.autograd.backward(nn.functional.cross_entropy(module(inputs), targets))
        optimiser.step()
    rows = TensorRows(inputs.double(), targets)
    return module.double().eval(), rows, torch.randn(10, 1097, dtype=torch.float64)


def hessian(dtype: torch.dtype = torch.float64, damping: float = 2e-3) -> Both:
    """By products, although its matrix would be cheaper."""
    module, rows, _ = trained()
    problem = Problem(module, make_loss("cross_entropy"), dtype=dtype)
    return with_damping(Hessian(problem, rows, product="graph"), damping)


def own(operator: Damped, products: float) -> Metric | None:
    return operator.curvature.preconditioner_if_cheaper(operator.damping, products)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_it_saves_products_and_changes_no_promise(dtype: torch.dtype) -> None:
    rhs, method = trained()[2], ConjugateGradients(rtol=1e-5, atol=1e-30)
    helped, alone = hessian(dtype), hessian(dtype)
    found = method.solve(*helped, rhs)
    method.solve(*alone, rhs, fit=IDENTITY)
    assert found.info["preconditioner"] == "gauss_newton"
    assert 32 <= found.info["preconditioner_rank"] <= sizes.MOST_COLUMNS
    assert helped.products < 0.7 * alone.products
    assert worst_row(hessian().matmat(found.x.double()), rhs) < 1.1e-5
    assert bool(found.converged.all())


def test_the_number_of_rows_at_a_time_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    module, rows, rhs = trained()
    problem = Problem(module, make_loss("cross_entropy"))
    whole = made(problem, rows, 2e-3)
    monkeypatch.setattr("workers.engine.gauss_newton.scan.ROWS_AT_ONCE", 47)  # and one row left
    parts = made(problem, rows, 2e-3)
    assert whole is not None
    assert parts is not None
    torch.testing.assert_close(parts.apply(rhs), whole.apply(rhs), rtol=1e-8, atol=1e-8)


def test_it_is_left_where_it_cannot_help() -> None:
    module, rows, _ = trained()
    problem = Problem(module, make_loss("cross_entropy"))
    assert made(problem, rows, 0.0) is None  # nothing to divide by
    assert made(problem, rows, 1e-30) is None  # less than rounding
    assert made(problem, rows, 1e6) is None  # no column matters
    inputs = torch.randn(2000, 20, dtype=torch.float64)
    alike = TensorRows(inputs, torch.randn(2000, 5, dtype=torch.float64))
    assert made(Problem(module, make_loss("mse")), alike, 1e-6) is None  # each counts as much
    few = with_damping(Hessian(problem, rows, product="graph", budget_bytes=1 << 16), 2e-3)
    assert own(few, 300.0) is None  # no memory for enough of them
    assert own(hessian(), 1.0) is None  # no products to save
    other = with_damping(Hessian(problem, rows, product="reverse_batched"), 2e-3)
    assert own(other, 300.0) is None  # not known to be the model's graph


def test_it_is_kept_for_the_same_damping() -> None:
    kept = Recycled()
    first = kept.preconditioner(hessian(), 300.0)
    assert first is not None
    assert kept.preconditioner(hessian(), 300.0) is first
    assert kept.nbytes == sum(each.nbytes for each in first.tensors().values())
    assert kept.preconditioner(hessian(damping=3e-3), 300.0) is not first


def test_what_a_solution_meets_with_it_helps_the_next() -> None:
    kept, rhs, method = Recycled(), trained()[2], ConjugateGradients(rtol=1e-5, atol=1e-30)
    first = hessian()
    method.solve(*first, rhs[:5], recycled=kept)
    deflated = kept.deflated
    assert deflated is not None
    assert kept.nbytes == sum(each.nbytes for each in deflated.tensors().values())
    # P is positive definite.
    assert float(deflated.weights.min()) > -1.0
    alone = method.solve(*hessian(), rhs[5:])
    found = method.solve(*hessian(), rhs[5:], recycled=kept)
    assert found.info["preconditioner_pairs"] == len(deflated.weights)
    assert int(found.info["iterations"].sum()) < int(alone.info["iterations"].sum())
    assert worst_row(hessian().matmat(found.x), rhs[5:]) < 1.1e-5
    method.solve(*hessian(damping=3e-3), rhs, recycled=kept)
    assert kept.deflated is not deflated


def test_a_deflation_learns_from_two_solutions() -> None:
    kept, rhs, method = Recycled(), trained()[2], ConjugateGradients(rtol=1e-5, atol=1e-30)
    lessons = []
    for part in (rhs[:2], rhs[2:4], rhs[4:]):
        method.solve(*hessian(), part, recycled=kept)
        lessons.append(kept.deflated)
    first, second, third = lessons
    assert first is not None
    assert second is not None
    assert third is second
    assert len(second.weights) > len(first.weights)
    vectors = second.vectors
    assert kept.own is not None
    unit = torch.eye(len(vectors), dtype=torch.float64)
    torch.testing.assert_close(kept.own.products([vectors]), unit, rtol=0.0, atol=1e-6)
    damped = (hessian().matmat(vectors) @ second.vectors.T).double()
    torch.testing.assert_close(
        damped, (1.0 / (second.weights.double() + 1.0)).diag(), rtol=0.0, atol=1e-6
    )


def test_a_solution_without_the_deflation_leaves_it_as_it_is() -> None:
    kept, rhs = Recycled(), trained()[2]
    ConjugateGradients(rtol=1e-5, atol=1e-30).solve(*hessian(), rhs[:2], recycled=kept)
    deflated = kept.deflated
    assert deflated is not None
    separate = ConjugateGradients(rtol=1e-5, atol=1e-30, recurrence="separate")
    separate.solve(*hessian(), rhs[2:4], recycled=kept)
    assert kept.deflated is deflated
    assert kept.vectors is None


def test_products_with_it_are_what_it_divides_by() -> None:
    made_here = own(hessian(), 300.0)
    assert made_here is not None
    vectors = trained()[2]
    inverse = made_here.apply(vectors)
    found = made_here.products([vectors[:3], inverse])
    torch.testing.assert_close(found[:3, 3:], (vectors[:3] @ vectors.T), rtol=1e-8, atol=1e-8)
