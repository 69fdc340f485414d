"""Influences block by block: bounded, in the order of the rows, with the sign that was promised."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

from tests.engine.exact import Exact, relative
from tests.engine.matrices import with_damping
from tests.engine.models import make
from workers.engine import (
    BadParameter,
    ConjugateGradients,
    Direct,
    Hessian,
    NoSuchParameter,
    NotFinite,
    Problem,
    ShapeMismatch,
    TensorRows,
    make_loss,
    per_example_gradients,
    perturb_at,
    perturbation,
    row_gradients,
    self_influence,
    up,
)
from workers.engine.scores import up as weighting

Blocks = Iterator[tuple[slice, Tensor]]


def problem_of(name: str) -> Problem:
    case = make(name)
    return Problem(case.module, make_loss(case.loss))


def factors_of(problem: Problem, count: int = 3) -> Tensor:
    return torch.randn(count, problem.size, dtype=problem.dtype)


def joined(blocks: Blocks) -> Tensor:
    return torch.cat([each for _, each in blocks], 1)


@pytest.mark.parametrize("kind", [up, perturbation])
@pytest.mark.parametrize("batch_size", [1, 3, 7, 20, 100])
def test_no_batch_size_changes_a_result(kind: Callable[..., Blocks], batch_size: int) -> None:
    case, problem = make("perceptron"), problem_of("perceptron")
    factors = factors_of(problem)
    expected = joined(kind(problem, factors, case.train, batch_size=20))
    found = joined(kind(problem, factors, case.train, batch_size=batch_size))
    assert relative(found, expected) < 1e-12


@pytest.mark.parametrize("kind", [up, perturbation, row_gradients])
def test_blocks_cover_the_columns_once_and_in_order(kind: Callable[..., Blocks]) -> None:
    case, problem = make("perceptron"), problem_of("perceptron")
    given = () if kind is row_gradients else (factors_of(problem),)
    columns = [each for each, _ in kind(problem, *given, case.train, batch_size=6)]
    covered = [row for each in columns for row in range(each.start, each.stop)]
    assert covered == list(range(case.train_count))


@pytest.mark.parametrize("kind", [up, perturbation])
def test_a_byte_budget_bounds_the_block(kind: Callable[..., Blocks]) -> None:
    problem = problem_of("perceptron")
    rows = TensorRows(torch.randn(900, 4).double(), torch.arange(900) % 3)
    factors = factors_of(problem, 40)
    widths = {
        budget: max(each.shape[1] for _, each in kind(problem, factors, rows, budget_bytes=budget))
        for budget in (100_000, 1 << 30)
    }
    assert widths[100_000] < 60 < widths[1 << 30]


def test_nothing_is_computed_before_it_is_asked_for() -> None:
    case, problem = make("perceptron"), problem_of("perceptron")
    told: list[int] = []
    blocks = up(
        problem,
        factors_of(problem),
        case.train,
        batch_size=5,
        progress=lambda stage, done, total, unit: told.append(done),
    )
    assert told == []
    next(blocks)
    next(blocks)
    assert told == [5]


def test_shuffled_rows_come_back_under_their_own_numbers() -> None:
    case, problem = make("perceptron"), problem_of("perceptron")
    factors = factors_of(problem)
    order = torch.randperm(case.train_count)
    shuffled = case.train.take(order)
    rows = TensorRows(shuffled.inputs, shuffled.target_tensors[0])
    expected = joined(up(problem, factors, case.train))
    assert relative(joined(up(problem, factors, rows)), expected[:, order]) < 1e-12


@pytest.mark.parametrize("batch_size", [4, 20])
def test_self_influence_is_the_diagonal(batch_size: int) -> None:
    case, problem = make("perceptron"), problem_of("perceptron")
    hessian = with_damping(Hessian(problem, case.train), 10.0)
    fitted = Direct().fit(*hessian)
    blocks = self_influence(problem, fitted.solve, case.train, batch_size=batch_size)
    found = torch.cat([each for _, each in blocks])
    gradients = torch.cat([each for _, each in row_gradients(problem, case.train)])
    expected = joined(up(problem, fitted.solve(gradients).x, case.train)).diagonal()
    assert relative(found, expected) < 1e-11
    assert bool((found > 0).all())


def test_self_influence_takes_any_solver() -> None:
    case, problem = make("perceptron"), problem_of("perceptron")
    hessian = with_damping(Hessian(problem, case.train), 10.0)
    method = ConjugateGradients(rtol=1e-12, atol=0.0)
    exact = self_influence(problem, Direct().fit(*hessian).solve, case.train)
    found = self_influence(problem, lambda rhs: method.solve(*hessian, rhs), case.train)
    for (_, ours), (_, theirs) in zip(found, exact, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=0)


def test_the_embedding_of_tokens_can_be_perturbed() -> None:
    case, problem = make("bag_of_words"), problem_of("bag_of_words")
    factors = factors_of(problem)
    found = joined(perturb_at(problem, factors, case.train, module="embedding", batch_size=4))
    assert found.shape == (3, case.train_count, 4, 3)
    step = 1e-5  # the change of ⟨factor, ∇θ L⟩ when one entry of one row's embedding is moved
    for row, position, entry in ((0, 0, 0), (7, 3, 2), (15, 1, 1)):
        batch = case.train.take(torch.tensor([row]))
        along = []
        for sign in (1.0, -1.0):
            shift = torch.zeros(1, 4, 3, dtype=torch.float64)
            shift[0, position, entry] = sign * step
            stop = problem.watch("embedding", lambda output, shift=shift: output + shift)
            along.append(factors @ per_example_gradients(problem, batch)[0])
            stop()
        expected = (along[0] - along[1]) / (2 * step)
        torch.testing.assert_close(found[:, row, position, entry], expected, rtol=1e-6, atol=1e-8)


def test_an_integer_input_is_named_and_the_way_out_with_it() -> None:
    case, problem = make("bag_of_words"), problem_of("bag_of_words")
    with pytest.raises(BadParameter, match=r"input 0.*perturb_at"):
        list(perturbation(problem, factors_of(problem), case.train))


def test_each_of_several_inputs_can_be_chosen() -> None:
    class Product(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right = nn.Linear(3, 2), nn.Linear(4, 2)

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return self.left(a) * torch.tanh(self.right(b))

    problem = Problem(Product().double().eval(), make_loss("mse"))
    a, b, y = torch.randn(6, 3).double(), torch.randn(6, 4).double(), torch.randn(6, 2).double()
    factors = factors_of(problem, 2)
    assert joined(perturbation(problem, factors, TensorRows((a, b), y))).shape == (2, 6, 3)
    found = joined(perturbation(problem, factors, TensorRows((a, b), y), input=1))
    swapped = joined(perturbation(problem, factors, TensorRows((a, b + 1e-6), y), input=1))
    assert found.shape == (2, 6, 4)
    assert 0 < float((found - swapped).abs().max()) < 1e-3
    with pytest.raises(BadParameter, match="2 inputs"):
        list(perturbation(problem, factors, TensorRows((a, b), y), input=2))


def test_a_module_that_is_called_twice_cannot_be_perturbed_silently() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(torch.tanh(self.inner(x)))

    problem = Problem(Twice().eval(), make_loss("mse"))
    rows = TensorRows(torch.randn(4, 3), torch.randn(4, 3))
    with pytest.raises(BadParameter, match="called 2 times"):
        list(perturb_at(problem, factors_of(problem), rows, module="inner"))
    with pytest.raises(NoSuchParameter, match="inner"):
        list(perturb_at(problem, factors_of(problem), rows, module="outer"))


def test_factors_of_another_model_are_refused() -> None:
    case, problem = make("perceptron"), problem_of("perceptron")
    with pytest.raises(ShapeMismatch, match="factors"):
        next(up(problem, torch.ones(2, problem.size + 1), case.train))


@pytest.mark.parametrize("kind", [up, perturbation])
def test_a_result_that_is_not_finite_names_the_row(kind: Callable[..., Blocks]) -> None:
    problem = Problem(nn.Linear(2, 1).eval(), make_loss("mse"))
    x = torch.randn(9, 2)
    x[6] = float("nan")
    with pytest.raises(NotFinite) as caught:
        list(kind(problem, torch.ones(1, 3), TensorRows(x, torch.randn(9, 1)), batch_size=4))
    assert caught.value.row == 6


def test_no_rows_and_no_factors_give_no_blocks() -> None:
    case, problem = make("perceptron"), problem_of("perceptron")
    empty = TensorRows(torch.randn(0, 4), torch.zeros(0, dtype=torch.int64))
    assert list(up(problem, factors_of(problem), empty)) == []
    assert list(perturbation(problem, factors_of(problem), empty)) == []
    assert joined(up(problem, factors_of(problem, 0), case.train)).shape == (0, case.train_count)


def test_inverting_the_mean_is_not_averaging_inverses_of_batches() -> None:
    case = make("softmax_regression")
    problem = Problem(case.module, make_loss(case.loss))
    hessian = with_damping(Hessian(problem, case.train, batch_size=5), 0.01)
    rhs = torch.cat([each for _, each in row_gradients(problem, case.test)])
    found = joined(up(problem, Direct().solve(*hessian, rhs).x, case.train))
    assert relative(found, Exact(case).up(0.01)) < 1e-9
    by_batch = [
        Direct()
        .solve(
            *with_damping(Hessian(problem, TensorRows(b.inputs, b.target_tensors[0])), 0.01), rhs
        )
        .x
        for b in case.train.batches(5)
    ]
    wrong = joined(up(problem, torch.stack(by_batch).mean(0), case.train))
    assert relative(wrong, Exact(case).up(0.01)) > 0.1  # what the trap would have given


def test_a_nan_on_the_way_forward_names_its_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weighting, "LONG_GRADIENT", 1)
    monkeypatch.setattr(weighting, "MANY_GRADIENTS", 1)
    case, problem = make("perceptron"), problem_of("perceptron")
    inputs = case.inputs[0].clone()
    inputs[11, 2] = float("nan")
    with pytest.raises(NotFinite) as caught:
        joined(up(problem, factors_of(problem), TensorRows(inputs, case.targets)))
    assert caught.value.row == 11
