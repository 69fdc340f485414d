"""H of a chain of linear layers, by pairs of layers: torch's own Hessian, for every such model."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from tests.engine.autodiff.test_exported import exported
from tests.engine.autodiff.test_graph import MODELS, problem_of
from tests.engine.exact import Exact, relative
from tests.engine.matrices import with_damping
from tests.engine.models import make
from workers.engine import Hessian, Loss, NotFinite, Problem, TensorRows, make_loss
from workers.engine.curvature.dense.build import layer_pairs

CROSS_ENTROPY = make_loss("cross_entropy")


def autograd_hessian(problem: Problem, rows: TensorRows) -> Tensor:
    batch = next(rows.batches(len(rows)))
    mean = torch.autograd.functional.hessian(
        lambda theta: problem.losses(theta, batch).mean(), problem.theta
    )
    assert isinstance(mean, Tensor)
    return mean


def digits(count: int = 23, outputs: int = 3) -> TensorRows:
    return TensorRows(torch.randn(count, 4).double(), torch.arange(count) % outputs)


def chain(*middle: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(4, 5), *middle, nn.Linear(5, 3)).double().eval()


def by_pairs(hessian: Hessian) -> Tensor:
    """As `dense`, sure that no product was needed."""
    dense = hessian.dense()
    assert (hessian.passes, hessian.products) == (1, 0)
    return dense


@pytest.mark.parametrize("name", ["linear_regression", "softmax_regression", "perceptron", "tied"])
@pytest.mark.parametrize("batch_size", ["auto", 1, 6])
def test_it_is_the_hessian_of_all_rows_for_any_batch_size(name: str, batch_size: int) -> None:
    case = make(name)
    problem = Problem(case.module, make_loss(case.loss))
    dense = by_pairs(with_damping(Hessian(problem, case.train, batch_size=batch_size), 3.0))
    assert relative(dense, Exact(case).hessian) < 1e-12
    assert torch.equal(dense, dense.T)


@pytest.mark.parametrize(
    "parameters",
    [("*",), ("0.*",), ("2.weight",), ("*.bias",), ("0.weight", "4.bias"), ("2.bias", "4.*")],
)
def test_only_selected_parameters_count(parameters: tuple[str, ...]) -> None:
    module = nn.Sequential(
        nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 4), nn.SiLU(), nn.Linear(4, 3, bias=False)
    )
    if "4.bias" in parameters or "4.*" in parameters:
        module[4] = nn.Linear(4, 3)
    problem = Problem(module.double().eval(), CROSS_ENTROPY, parameters)
    rows = digits()
    assert relative(by_pairs(Hessian(problem, rows)), autograd_hessian(problem, rows)) < 1e-12


@pytest.mark.parametrize(
    "module",
    [
        chain(),  # no function between the layers
        chain(nn.Dropout(0.3), nn.ReLU(), nn.GELU()),
        nn.Sequential(chain(nn.Softplus()), nn.Tanh()),  # a function after the last layer
        nn.Sequential(nn.Unflatten(1, (1, 2, 2)), nn.Flatten(), chain(nn.ELU())),
        nn.Sequential(nn.Linear(4, 3, bias=False)),
        nn.Sequential(chain(nn.Sigmoid()), nn.Linear(3, 6), nn.Mish(), nn.Linear(6, 3)),
    ],
    ids=["linear", "dropout", "last", "flatten", "one", "deep"],
)
def test_any_chain(module: nn.Module) -> None:
    problem = Problem(module.double().eval(), CROSS_ENTROPY)
    rows = digits()
    assert relative(by_pairs(Hessian(problem, rows)), autograd_hessian(problem, rows)) < 1e-12


@pytest.mark.parametrize(
    ("loss", "targets"),
    [
        (make_loss("mse"), torch.randn(23, 3).double()),
        (make_loss("huber", delta=0.5), torch.randn(23, 3).double()),
        (make_loss("bce_with_logits"), torch.rand(23, 3).double()),
        (make_loss("poisson_nll"), torch.arange(69).reshape(23, 3).double() % 4),
        (make_loss("cross_entropy", label_smoothing=0.1), torch.arange(23) % 3),
        (make_loss("cross_entropy", weight=(1.0, 2.0, 0.5)), torch.arange(23) % 3),
        (CROSS_ENTROPY, torch.softmax(torch.randn(23, 3).double(), 1)),
    ],
)
def test_any_loss(loss: Loss, targets: Tensor) -> None:
    problem = Problem(chain(nn.Tanh()), loss)
    rows = TensorRows(torch.randn(23, 4).double(), targets)
    assert relative(by_pairs(Hessian(problem, rows)), autograd_hessian(problem, rows)) < 1e-12


def test_the_trained_head_of_a_frozen_network_is_a_chain() -> None:
    body = nn.Sequential(nn.Unflatten(1, (1, 2, 2)), nn.Conv2d(1, 3, 2), nn.ReLU(), nn.Flatten())
    module = nn.Sequential(body, nn.Linear(3, 3)).double().eval()
    problem, rows = Problem(module, CROSS_ENTROPY, ("1.*",)), digits()
    assert relative(by_pairs(Hessian(problem, rows)), autograd_hessian(problem, rows)) < 1e-12


class Attended(nn.Module):
    """Attention with nothing but a mean and a head behind it: inside of it positions come before rows."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        found, _ = self.attention(x, x, x, need_weights=False)
        return self.head(found.mean(1))


class Flattened(nn.Module):
    """A layer of rows and positions together, as GPT-2 has them, before the head."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.head = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.inner(x.reshape(-1, 4)).reshape(x.shape).mean(1))


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("batch_size", [1, 3, 22])  # the last batch of 3 has one row
@pytest.mark.parametrize("positions", [1, 3])
@pytest.mark.parametrize("make", [Attended, Flattened])
def test_layers_of_rows_and_positions_together_are_no_part_of_a_chain(
    make: type[nn.Module], positions: int, batch_size: int
) -> None:
    module, x = make().double().eval(), torch.randn(22, positions, 4).double()
    rows = TensorRows(x, torch.arange(22) % 3)
    program = Problem(exported(module, (x,)), CROSS_ENTROPY)
    dense = Hessian(program, rows, batch_size=batch_size).dense()
    with sdpa_kernel([SDPBackend.MATH]):
        assert relative(dense, autograd_hessian(Problem(module, CROSS_ENTROPY), rows)) < 1e-12


@pytest.mark.parametrize("parameters", [("*",), ("*bias",), ("*weight",)], ids=str)
@pytest.mark.parametrize("name", sorted(MODELS))
def test_a_written_out_model_is_built_layer_by_layer(
    name: str, parameters: tuple[str, ...]
) -> None:
    problem, batch = problem_of(name, parameters)
    rows = TensorRows(batch.inputs, batch.targets)
    hessian = Hessian(problem, rows, batch_size=3)
    dense = hessian.dense()
    assert relative(dense, Hessian(problem, rows, product="reverse_loop").dense()) < 1e-12
    assert torch.equal(dense, dense.T)
    assert hessian.products <= problem.size  # a unit vector each, none for linear layers at the end
    if name == "residual_network":
        head = sum(each.size for each in problem.layout if each.name.startswith("7."))
        assert hessian.products == problem.size - head


def test_building_layer_by_layer_can_be_cancelled_and_gives_way_where_memory_ends() -> None:
    problem, batch = problem_of("residual_network")
    rows = TensorRows(batch.inputs, batch.targets)
    expected = Hessian(problem, rows, product="reverse_loop").dense()

    class Stop(BaseException):
        pass

    told: list[str] = []

    def tell(stage: str, done: int, total: int, unit: str) -> None:
        told.append(stage)
        if len(told) == 5:
            raise Stop

    with pytest.raises(Stop):
        Hessian(problem, rows, batch_size=3, progress=tell).dense()
    failures = iter([True])

    def fails_once(stage: str, done: int, total: int, unit: str) -> None:
        if done == 3 and next(failures, False):
            raise torch.OutOfMemoryError("out of memory")

    assert (
        relative(Hessian(problem, rows, batch_size=3, progress=fails_once).dense(), expected)
        < 1e-12
    )


@pytest.mark.parametrize("name", ["encoder", "group_norm", "recurrent"])
def test_other_models_go_by_products(name: str) -> None:
    case = make(name)
    hessian = Hessian(Problem(case.module, make_loss(case.loss)), case.train)
    assert relative(hessian.dense(), Exact(case).hessian) < 1e-10
    assert hessian.products == hessian.shape[0]


def test_a_layer_whose_hook_hides_its_weight_goes_by_products() -> None:
    module = chain(nn.Tanh())
    module[0].register_forward_hook(lambda own, given, result: 2.0 * result)
    problem, rows = Problem(module, CROSS_ENTROPY), digits()
    assert relative(Hessian(problem, rows).dense(), autograd_hessian(problem, rows)) < 1e-12


def test_float32_is_near_float64_even_on_confident_points() -> None:
    module = chain(nn.Tanh())
    with torch.no_grad():
        module[2].weight *= 20
    rows = digits(200)
    exact = autograd_hessian(Problem(module, CROSS_ENTROPY), rows)
    single = by_pairs(Hessian(Problem(module, CROSS_ENTROPY, dtype=torch.float32), rows))
    assert relative(single, exact) < 5e-6


def test_a_row_with_a_nan_is_named() -> None:
    inputs = torch.randn(30, 4).double()
    inputs[17, 2] = float("nan")
    rows = TensorRows(inputs, torch.arange(30) % 3)
    with pytest.raises(NotFinite) as caught:
        Hessian(Problem(chain(nn.Tanh()), CROSS_ENTROPY), rows, batch_size=8).dense()
    assert caught.value.row == 17


def test_batches_are_within_the_budget() -> None:
    problem, rows = Problem(chain(nn.Tanh()), CROSS_ENTROPY), digits(500)
    pairs = layer_pairs(problem, next(rows.batches(4)))
    assert pairs is not None
    assert pairs.rows_at_once(20_000) < pairs.rows_at_once(1 << 30) / 5
    small = Hessian(problem, rows, budget_bytes=20_000)
    assert relative(by_pairs(small), autograd_hessian(problem, rows)) < 1e-12
