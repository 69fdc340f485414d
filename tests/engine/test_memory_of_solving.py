"""What multiplying and solving hold of vectors as long as all parameters, and of the windows of convolutions."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from weakref import ref

import pytest
import torch
from torch import Tensor, nn

from tests.engine.alive import Alive
from workers.engine import (
    ConjugateGradients,
    Lissa,
    Over,
    Problem,
    TensorRows,
    make_curvature,
    make_loss,
)
from workers.engine.autodiff.graph.convolution import Convolution
from workers.engine.autodiff.graph.linearized import Linearized
from workers.engine.autodiff.graph.trace import traced
from workers.engine.curvature.row_sums import RowSums
from workers.engine.model.batching import activation_bytes
from workers.engine.model.rows import Batch
from workers.engine.scores.optimality import TYPICAL_ROWS, optimality

OF_ENDS = 24  # vectors, of the Lanczos steps that find a scale


def perceptron(count: int) -> tuple[Problem, TensorRows, Tensor]:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(40, 100), nn.Tanh(), nn.Linear(100, 10))
    problem = Problem(module, make_loss("cross_entropy"))
    rows = TensorRows(torch.randn(60, 40), torch.arange(60) % 10)
    return problem, rows, torch.randn(count, problem.size)


@pytest.mark.parametrize("count", [4, 8])
def test_conjugate_gradients_hold_seven_vectors_for_a_right_hand_side(count: int) -> None:
    """The solution, its residual, a direction, the right-hand side scaled; a product, as it is summed up."""
    problem, rows, rhs = perceptron(count)
    curvature = make_curvature(Over(problem, rows, budget_bytes=1 << 18), "gauss_newton")
    curvature.matmat(rhs)  # what multiplies is selected, on two vectors
    method = ConjugateGradients(maxiter=3, rtol=1e-4, unsolved="keep")
    with Alive() as alive:
        method.solve(curvature, 1.0, rhs)
    vectors = alive.peak / (count * problem.size * rhs.itemsize)
    assert 4.0 < vectors < 7.5  # with activations and what is small


@pytest.mark.parametrize("vectors", [12, 60])
def test_lissa_keeps_no_more_of_a_space_than_the_budget_holds(vectors: int) -> None:
    problem, rows, rhs = perceptron(2)
    budget = vectors * problem.size * rhs.itemsize
    curvature = make_curvature(Over(problem, rows, budget_bytes=budget), "gauss_newton")
    curvature.matmat(rhs)
    with Alive() as alive:
        Lissa(maxiter=30, unsolved="keep").solve(curvature, 0.1, rhs)
    held = alive.peak / (problem.size * rhs.itemsize)
    assert held < vectors + OF_ENDS + 8 * len(rhs)


def convolutions() -> tuple[Problem, TensorRows]:
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1), nn.Tanh(), nn.Conv2d(3, 4, 3, stride=2), nn.Tanh(), nn.Flatten(),
        nn.Linear(4, 3),
    )  # fmt: skip
    problem = Problem(module, make_loss("cross_entropy"))
    return problem, TensorRows(torch.randn(300, 2, 4, 4), torch.arange(300) % 3)


def linearized(problem: Problem, batch: Batch) -> list[Convolution]:
    graph = traced(problem)
    assert graph is not None
    nodes = Linearized.made(graph, problem, problem.placed(batch)).nodes
    return [each for each in nodes if isinstance(each, Convolution)]


def test_the_bytes_of_windows_are_those_that_are_made() -> None:
    problem, rows = convolutions()
    for each in linearized(problem, next(iter(rows.batches(7)))):
        windows = each.windows.nbytes
        assert 7 * each.unfolded_bytes(bends=False) == windows
        assert 7 * each.unfolded_bytes(bends=True) == windows + each.reached.nbytes


@pytest.mark.parametrize("kind", ["hessian", "gauss_newton"])
def test_windows_of_convolutions_make_blocks_smaller(kind: str) -> None:
    problem, rows = convolutions()
    over = Over(problem, rows, budget_bytes=1 << 20)
    sums: RowSums = make_curvature(over, kind)._sums  # type: ignore[attr-defined]
    nodes = linearized(problem, next(iter(rows.batches(2))))
    windows = sum(each.unfolded_bytes(bends=kind == "hessian") for each in nodes)
    block = sums._plan.of(4)
    assert windows > 0
    assert block.rows * (windows + sums.row_bytes * (1 + block.vectors)) <= 1 << 20
    assert sums._kept_bytes == len(rows) * (sums.row_bytes + windows)


def test_the_matrix_of_a_convolution_over_all_places_is_made_once() -> None:
    problem, rows = convolutions()
    first, second = (linearized(problem, each) for each in list(rows.batches(100))[:2])
    made = [each.over_places for each in first]
    assert any(each is not None for each in made)
    for before, after in zip(made, (each.over_places for each in second), strict=True):
        assert after is before


def test_a_graph_that_the_windows_cannot_be_read_from_takes_other_products(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    problem, rows = convolutions()
    vectors = torch.randn(2, problem.size)
    expected = make_curvature(Over(problem, rows), "hessian").matmat(vectors)

    def fails(*_: object) -> None:
        raise IndexError("what a model may do")

    monkeypatch.setattr("workers.engine.curvature.row_sums.Assembly", fails)
    problem, rows = convolutions()
    found = make_curvature(Over(problem, rows), "hessian").matmat(vectors)
    torch.testing.assert_close(found, expected)


@pytest.fixture
def no_collector() -> Iterator[None]:
    """So that what lies in a circle stays, and is seen."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def exported(module: nn.Module, x: Tensor) -> nn.Module:
    rows = torch.export.Dim("rows", min=2)
    return torch.export.export(module.eval(), (x[:2],), dynamic_shapes=({0: rows},)).module()


@pytest.mark.usefixtures("no_collector")
def test_what_a_batch_has_prepared_goes_with_it() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.LayerNorm(12),
        nn.Linear(12, 3), nn.Softmax(-1),
    )  # fmt: skip
    x = torch.randn(6, 2, 4, 4)
    rows = TensorRows(x, torch.arange(6) % 3)
    problem = Problem(exported(module, x), make_loss("cross_entropy"))
    graph = traced(problem)
    assert graph is not None
    made = Linearized.made(graph, problem, problem.placed(next(iter(rows.batches(6)))))
    made(torch.randn(2, problem.size))
    nodes = [ref(each) for each in made.nodes]
    assert len(nodes) >= 7
    del made
    assert [each() for each in nodes] == [None] * len(nodes)


@pytest.mark.usefixtures("no_collector")
def test_a_copy_of_the_model_in_float64_goes_with_its_curvature() -> None:
    torch.manual_seed(0)
    x = torch.randn(6, 3)
    module = exported(nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)), x)
    problem = Problem(module, make_loss("cross_entropy"))
    curvature = make_curvature(Over(problem, TensorRows(x, torch.arange(6) % 2)), "gauss_newton")
    double = curvature.in_double()
    assert double is not None
    double.matmat(torch.randn(2, problem.size, dtype=torch.float64))
    weights = [ref(each) for each in double.problem.module.parameters()]  # type: ignore[attr-defined]
    assert len(weights) == 4
    del double
    assert [each() for each in weights] == [None] * 4


def test_selected_weights_are_in_memory_once() -> None:
    module = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    before = [each.clone() for each in module.parameters()]
    problem = Problem(module, make_loss("cross_entropy"), ["2.*"])
    own = problem.theta.untyped_storage().data_ptr()
    for name, each in problem.module.named_parameters():
        assert (each.untyped_storage().data_ptr() == own) == name.startswith("2.")
    for one, other in zip(problem.module.parameters(), before, strict=True):
        assert torch.equal(one, other)


def test_activations_in_float64_are_known_from_those_in_float32() -> None:
    for problem, rows in (convolutions(), perceptron(1)[:2]):
        curvature = make_curvature(Over(problem, rows), "hessian")
        known = curvature.in_double()._sums.row_bytes  # type: ignore[union-attr]
        # A label has the same bytes in both.
        assert known == pytest.approx(activation_bytes(problem.in_double(), rows), rel=0.01)


def test_the_norms_of_gradients_take_no_copy_of_a_block_of_them() -> None:
    """A block of the budget, what it is made of, and sums in float64."""
    torch.manual_seed(0)
    problem = Problem(nn.Sequential(nn.Linear(1000, 1000)), make_loss("cross_entropy"))
    rows = TensorRows(torch.randn(TYPICAL_ROWS, 1000), torch.arange(TYPICAL_ROWS) % 1000)
    with Alive() as alive:
        optimality(problem, rows, budget_bytes=24 * problem.theta.nbytes)
    assert alive.peak <= 22 * problem.theta.nbytes
