"""A problem selects parameters, leaves the caller's model alone, and refuses with reasons."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tests.engine.autodiff.test_graph import problem_of
from tests.engine.exact import relative
from tests.engine.models import Recurrent, TiedAutoencoder, make
from workers.engine import (
    BadParameter,
    Batch,
    Hessian,
    NoSuchParameter,
    NotFinite,
    Problem,
    RowsMixed,
    ShapeMismatch,
    TensorRows,
    TrainingMode,
    UnsupportedOperator,
    check_problem,
    make_loss,
    per_example_gradients,
)
from workers.engine.autodiff.gradients import by_batched_backward, by_row, by_vmap, gradient_backend


def perceptron() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).eval()


MSE = make_loss("mse")
CROSS_ENTROPY = make_loss("cross_entropy")


def batch(count: int = 6) -> Batch:
    return Batch((torch.randn(count, 4),), torch.arange(count) % 3, 0)


def test_the_layout_is_that_of_named_parameters() -> None:
    layout = Problem(perceptron(), CROSS_ENTROPY).layout
    assert [(each.name, each.shape, each.offset) for each in layout] == [
        ("0.weight", (5, 4), 0),
        ("0.bias", (5,), 20),
        ("2.weight", (3, 5), 25),
        ("2.bias", (3,), 40),
    ]


def test_globs_select_in_model_order_and_the_rest_is_frozen() -> None:
    problem = Problem(perceptron(), CROSS_ENTROPY, ("2.bias", "*.weight"))
    assert [each.name for each in problem.layout] == ["0.weight", "2.weight", "2.bias"]
    assert per_example_gradients(problem, batch()).shape == (6, 20 + 15 + 3)


def test_theta_is_what_the_losses_use() -> None:
    module = perceptron()
    problem = Problem(module, CROSS_ENTROPY, ("2.*",))
    given = batch()
    expected = nn.functional.cross_entropy(module(given.inputs[0]), given.targets, reduction="none")
    torch.testing.assert_close(problem.losses(problem.theta, given), expected.detach())
    moved = problem.losses(problem.theta + torch.randn(problem.size), given)
    assert not torch.allclose(moved, expected)


def test_tied_weights_are_one_parameter() -> None:
    problem = Problem(TiedAutoencoder().eval(), MSE)
    assert [each.name for each in problem.layout] == [
        "encode.weight",
        "encode.bias",
        "decode.bias",
    ]


def test_the_model_given_is_never_changed() -> None:
    module = perceptron()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    problem = Problem(module, CROSS_ENTROPY, dtype=torch.float64)
    Hessian(problem, TensorRows(torch.randn(6, 4), torch.arange(6) % 3)).dense()
    assert all(torch.equal(module.state_dict()[name], value) for name, value in before.items())
    assert all(each.requires_grad and each.grad is None for each in module.parameters())
    assert next(module.parameters()).dtype == torch.float32


@pytest.mark.parametrize("glob", ["head.*", "1.weight", "0.weights"])
def test_a_glob_that_matches_nothing_names_what_there_is(glob: str) -> None:
    with pytest.raises(NoSuchParameter, match=r"0\.weight") as caught:
        Problem(perceptron(), CROSS_ENTROPY, ("2.*", glob))
    assert caught.value.glob == glob


@pytest.mark.parametrize(
    "layer",
    [nn.Dropout(0.5), nn.BatchNorm1d(4), nn.LSTM(4, 4, num_layers=2, dropout=0.2)],
    ids=lambda layer: type(layer).__name__,
)
def test_training_mode_is_refused_with_the_name_of_the_layer(layer: nn.Module) -> None:
    module = nn.Sequential(nn.Linear(4, 4), layer).train()
    with pytest.raises(TrainingMode, match=f"{type(layer).__name__} at 1"):
        Problem(module, MSE)


def test_layers_without_chance_may_stay_in_training_mode() -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Dropout(0.0), nn.Linear(4, 3))
    check_problem(Problem(module.train(), CROSS_ENTROPY), batch())


def test_chance_hidden_in_the_forward_pass_is_found() -> None:
    class Noisy(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.dropout(super().forward(x), 0.5, training=True)

    with pytest.raises(TrainingMode, match="random"):
        check_problem(Problem(Noisy(4, 3).eval(), CROSS_ENTROPY), batch())


def test_rows_that_depend_on_each_other_are_found() -> None:
    class Centred(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x - x.mean(0))

    with pytest.raises(RowsMixed, match="other rows"):
        check_problem(Problem(Centred(4, 3).eval(), CROSS_ENTROPY), batch())


def test_a_nan_weight_is_named() -> None:
    module = perceptron()
    with torch.no_grad():
        module.get_parameter("2.weight")[1, 2] = float("inf")
    with pytest.raises(NotFinite) as caught:
        Problem(module, CROSS_ENTROPY)
    assert caught.value.parameter == "2.weight"


def test_check_names_a_row_whose_input_is_not_finite() -> None:
    given = batch()
    given.inputs[0][3, 1] = float("nan")
    with pytest.raises(NotFinite, match="input 0 at row 3"):
        check_problem(Problem(perceptron(), CROSS_ENTROPY), given)


def test_check_refuses_classes_out_of_range() -> None:
    given = Batch((torch.randn(2, 4),), torch.tensor([0, 3]), 0)
    with pytest.raises(BadParameter, match="classes go from 0 to 2"):
        check_problem(Problem(perceptron(), CROSS_ENTROPY), given)


def test_check_refuses_targets_that_would_be_broadcast() -> None:
    given = Batch((torch.randn(5, 4),), torch.randn(5), 0)
    with pytest.raises(ShapeMismatch):
        check_problem(Problem(nn.Linear(4, 1).eval(), MSE), given)


class FirstDerivativeOnly(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):  # type: ignore[no-untyped-def]
        ctx.save_for_backward(x)
        return x.exp()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        return grad * ctx.saved_tensors[0].exp()


class HalfDifferentiable(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return FirstDerivativeOnly.apply(super().forward(x))


def test_a_model_without_second_derivative_is_refused_and_not_multiplied_with_zero() -> None:
    problem = Problem(HalfDifferentiable(4, 3).eval(), CROSS_ENTROPY)
    with pytest.raises(UnsupportedOperator):
        check_problem(problem, batch())
    rows = TensorRows(torch.randn(6, 4), torch.arange(6) % 3)
    with pytest.raises(UnsupportedOperator):
        Hessian(problem, rows).matmat(torch.ones(1, problem.size))


class Unvectorisable(nn.Module):
    """Reads a number off a tensor, as vmap does not allow."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        scale = 2.0 if x.detach().abs().max().item() >= 0.0 else 1.0
        return self.linear(x).tanh() * scale


def test_a_model_that_vmap_refuses_goes_another_way_to_the_same_gradients() -> None:
    problem = Problem(Unvectorisable().double().eval(), CROSS_ENTROPY)
    given = problem.placed(batch(19))
    found = per_example_gradients(problem, given)
    assert gradient_backend(problem) == "by_batched_backward"
    assert relative(found, by_row(problem, given)) < 1e-13
    check_problem(problem, given)


@pytest.mark.parametrize("name", ["perceptron", "convolutional", "bag_of_words", "tied"])
def test_all_ways_to_per_example_gradients_agree(name: str) -> None:
    case = make(name)
    problem = Problem(case.module, make_loss(case.loss))
    given = next(case.train.batches(11))
    one_by_one = by_row(problem, given)
    assert relative(by_vmap(problem, given), one_by_one) < 1e-12
    assert relative(by_batched_backward(problem, given), one_by_one) < 1e-12


def test_chunks_do_not_change_gradients() -> None:
    problem = Problem(perceptron().double(), CROSS_ENTROPY)
    given = batch(11)
    assert (
        relative(
            per_example_gradients(problem, given, chunk=3), per_example_gradients(problem, given)
        )
        < 1e-13
    )


def test_a_gradient_that_overflows_names_its_row() -> None:
    given = Batch((torch.randn(9, 4),), torch.randn(9, 1), 20)
    given.inputs[0][5] = 1e30
    with pytest.raises(NotFinite) as caught:
        per_example_gradients(Problem(nn.Linear(4, 1).eval(), MSE), given)
    assert caught.value.row == 25


def test_recurrent_models_pass_though_they_have_no_forward_mode() -> None:
    problem = Problem(Recurrent().eval(), MSE)
    rows = TensorRows(torch.randn(6, 4, 2), torch.randn(6, 1))
    hessian = Hessian(problem, rows)
    hessian.matmat(torch.randn(3, problem.size))
    assert hessian.product_name in ("reverse_loop", "reverse_batched")


class Squeezing(nn.Module):
    """As tutorials write it: one output a row, its axis squeezed away, and with it a lone row's."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x).squeeze()


@pytest.mark.parametrize("batch_size", [1, 3, 7])
def test_a_model_that_squeezes_its_output_works_with_any_batch_size(batch_size: int) -> None:
    problem = Problem(Squeezing().double().eval(), MSE)
    x, y = torch.randn(7, 4).double(), torch.randn(7).double()
    check_problem(problem, Batch((x,), y, 0))
    kept = Problem(problem.module.layers, MSE, ("*",))  # the same without the squeeze
    found = Hessian(problem, TensorRows(x, y), batch_size=batch_size).dense()
    assert relative(found, Hessian(kept, TensorRows(x, y[:, None])).dense()) < 1e-12
    gradients = per_example_gradients(problem, Batch((x,), y, 0))
    assert relative(gradients, per_example_gradients(kept, Batch((x,), y[:, None], 0))) < 1e-12
    assert gradient_backend(problem) == "by_graph"


def test_gradients_written_out_for_the_graph_are_those_of_single_rows_or_not_taken() -> None:
    for name in ("residual_network", "large_images", "attention"):
        problem, given = problem_of(name)
        assert relative(per_example_gradients(problem, given), by_row(problem, given)) < 1e-12
        assert gradient_backend(problem) == "by_graph"
    hooked = perceptron().double()
    hooked[0].register_forward_hook(lambda own, inputs, result: 2.0 * result)
    problem = Problem(hooked, CROSS_ENTROPY)
    given = problem.placed(batch(11))
    assert relative(per_example_gradients(problem, given), by_row(problem, given)) < 1e-12
    assert gradient_backend(problem) == "by_vmap"


def test_tied_weights_are_found_under_each_of_their_names() -> None:
    problem = Problem(TiedAutoencoder().eval(), MSE, ("decode.weight",))
    assert [each.name for each in problem.layout] == ["encode.weight"]


def test_no_globs_at_all_are_refused() -> None:
    with pytest.raises(BadParameter, match="parameters"):
        Problem(perceptron(), CROSS_ENTROPY, ())


class Gated(nn.Module):
    """A hard sigmoid, which torch differentiates only once."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.hardsigmoid(self.linear(x))


def test_the_operator_without_a_second_derivative_is_named() -> None:
    problem = Problem(Gated().eval(), CROSS_ENTROPY)
    with pytest.raises(UnsupportedOperator) as caught:
        check_problem(problem, batch())
    assert caught.value.operator == "aten::hardsigmoid_backward"
    rows = TensorRows(torch.randn(6, 4), torch.arange(6) % 3)
    with pytest.raises(UnsupportedOperator, match="hardsigmoid_backward"):
        Hessian(problem, rows).matmat(torch.ones(1, problem.size))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_classes_may_be_of_any_integer_type(dtype: torch.dtype) -> None:
    problem = Problem(perceptron(), CROSS_ENTROPY)
    given = batch()
    assert isinstance(given.targets, Tensor)
    expected = per_example_gradients(problem, given)
    found = per_example_gradients(problem, Batch(given.inputs, given.targets.to(dtype), 0))
    assert torch.equal(found, expected)
