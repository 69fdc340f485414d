"""Parameters where real networks have them: products and gradients are analytic, and autograd's."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from tests.engine.autodiff.test_functional import expected, exported
from tests.engine.exact import relative
from workers.engine import (
    Batch,
    Hessian,
    Over,
    Problem,
    TensorRows,
    derivatives_used,
    make_curvature,
    make_loss,
)
from workers.engine.autodiff.gradients import analytic_gradients, by_row
from workers.engine.autodiff.graph.linearized import analytic_hvp
from workers.engine.autodiff.select import probe_vectors

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")


class Transposed(nn.Module):
    """GPT-2's Conv1D: a weight (in, out), over tokens as one axis; and a plain product."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.shift = (
            nn.Parameter(torch.randn(3, 6) / 2),
            nn.Parameter(torch.randn(6) / 3),
        )
        self.second = nn.Parameter(torch.randn(6, 3) / 2)

    def forward(self, given: Tensor) -> Tensor:
        flat = torch.addmm(self.shift, given.reshape(-1, 3), self.first)
        hidden = torch.tanh(flat.view(given.shape[0], 4, 6))
        return torch.matmul(hidden, self.second).mean(1)


class Positions(nn.Module):
    """Embedded positions that all rows share, a class token for each row, and a scale of layers."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.randn(1, 1, 6))
        self.whole = nn.Parameter(torch.randn(1, 5, 6))
        self.places, self.inner = nn.Embedding(5, 6), nn.Linear(3, 6)
        self.scale = nn.Parameter(torch.rand(6) + 0.5)
        self.head = nn.Linear(6, 3)
        self.register_buffer("numbers", torch.arange(5).unsqueeze(0))

    def forward(self, given: Tensor) -> Tensor:
        first = self.token.expand(given.shape[0], -1, -1)
        hidden = torch.cat([first, self.inner(given)], 1) + self.whole
        hidden = torch.tanh(hidden + self.places(self.numbers))
        root = torch.rsqrt(hidden.pow(2).mean(-1, keepdim=True) + 1e-5)
        return self.head((self.scale * (hidden * root)).select(1, 0))


class Biased(nn.Module):
    """Attention with a table of relative positions and a scale, as Swin has it; a part of it detached."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.head = nn.Linear(3, 6), nn.Linear(6, 3)
        self.table = nn.Parameter(torch.randn(7))
        self.factor = nn.Parameter(torch.rand(1, 1) + 0.5)
        self.register_buffer("numbers", torch.arange(4)[:, None] - torch.arange(4)[None] + 3)

    def forward(self, given: Tensor) -> Tensor:
        hidden = torch.roll(self.inner(given), 1, 1)
        scores = hidden @ hidden.transpose(1, 2) * self.factor.exp()
        scores = scores + self.table[self.numbers.view(-1)].view(4, 4).unsqueeze(0)
        mask = hidden.new_zeros(4, 4)
        hidden = torch.softmax(scores + mask, -1) @ hidden
        return self.head(torch.tanh(hidden + hidden.detach()).mean(1))


class Grouped(nn.Module):
    """Depthwise convolutions and groups, strided, padded and dilated, with the scale of ConvNeXt."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.depthwise = nn.Conv2d(4, 4, 3, padding=1, groups=4)
        self.groups = nn.Conv2d(4, 6, 3, stride=2, padding=2, dilation=2, groups=2, bias=False)
        self.scale, self.act = nn.Parameter(torch.rand(6, 1, 1)), nn.Hardswish()
        self.head = nn.Linear(6, 3)

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.act(self.depthwise(torch.tanh(self.stem(images))))
        return self.head((torch.tanh(self.groups(hidden)) * self.scale).mean((2, 3)))


class AlongTime(nn.Module):
    """Grouped convolution along one axis."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(4, 6, 2, groups=2)
        self.head = nn.Linear(6, 3)

    def forward(self, given: Tensor) -> Tensor:
        return self.head(torch.tanh(self.conv(given)).mean(2))


CASES: list[tuple[Callable[[], nn.Module], tuple[int, ...]]] = [
    (Transposed, (4, 3)), (Positions, (4, 3)), (Biased, (4, 3)), (Grouped, (3, 5, 5)), (AlongTime, (4, 5)),
]  # fmt: skip


@pytest.mark.parametrize(("build", "shape"), CASES, ids=lambda each: getattr(each, "__name__", ""))
def test_products_are_analytic_and_autograds(
    build: Callable[[], nn.Module], shape: tuple[int, ...]
) -> None:
    problem, batch = exported(build, *shape)
    hessian = Hessian(problem, TensorRows(batch.inputs, batch.targets))
    vectors = torch.randn(3, problem.size, dtype=torch.float64)
    found = hessian.matmat(vectors)
    assert hessian.product_name == "graph"
    assert relative(found, expected(problem, batch, vectors)) < 1e-12


@pytest.mark.parametrize("chosen", [("head.*",), ("*t*", "*e*")], ids=["head", "most"])
@pytest.mark.parametrize(("build", "shape"), CASES, ids=lambda each: getattr(each, "__name__", ""))
def test_products_of_some_parameters_are(
    build: Callable[[], nn.Module], shape: tuple[int, ...], chosen: tuple[str, ...]
) -> None:
    whole, batch = exported(build, *shape)
    named = ("second",) if build is Transposed else chosen
    problem = Problem(whole.module, make_loss("cross_entropy"), named)
    way = analytic_hvp(problem)
    assert way is not None
    vectors = probe_vectors(problem)
    found = way.prepare(problem, batch)(vectors) / len(batch)
    assert relative(found, expected(problem, batch, vectors)) < 1e-12


@pytest.mark.parametrize(
    ("build", "shape"),
    [each for each in CASES if each[0] is not Biased],
    ids=lambda each: getattr(each, "__name__", ""),
)
@pytest.mark.parametrize("rows", [2, 7])
def test_gradients_of_rows_are_analytic_and_autograds(
    build: Callable[[], nn.Module], shape: tuple[int, ...], rows: int
) -> None:
    problem, batch = exported(build, *shape)
    batch = batch.narrow(0, rows)
    assert relative(analytic_gradients(problem, batch), by_row(problem, batch)) < 1e-12


@pytest.mark.parametrize(("build", "shape"), CASES, ids=lambda each: getattr(each, "__name__", ""))
def test_dense_gauss_newton_matrices_are_plain_autograds(
    build: Callable[[], nn.Module], shape: tuple[int, ...]
) -> None:
    problem, batch = exported(build, *shape)
    named = dict(exported(build, *shape)[0].module.named_parameters())  # a copy, for autograd
    chosen = [named[each.name].requires_grad_() for each in problem.layout]
    exact = torch.zeros(problem.size, problem.size, dtype=torch.float64)
    for outputs in functional_call(problem.module, named, batch.inputs):
        columns = [torch.autograd.grad(each, chosen, retain_graph=True) for each in outputs]
        jacobian = torch.stack([torch.cat([each.flatten() for each in some]) for some in columns])
        p = outputs.detach().softmax(0)
        exact += jacobian.T @ (torch.diag(p) - torch.outer(p, p)) @ jacobian / len(batch)
    over = Over(problem, TensorRows(batch.inputs, batch.targets))
    assert relative(make_curvature(over, "gauss_newton").dense(), exact) < 1e-10


def test_a_parameter_that_all_rows_share_has_no_gradient_of_a_row_by_the_graph() -> None:
    problem, batch = exported(Biased, 4, 3)
    with pytest.raises(ValueError, match="of all rows together alone"):
        analytic_gradients(problem, batch)


class Unknown(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.head = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, given: Tensor) -> Tensor:
        values, _ = torch.sort(self.inner(given), 1)
        return self.head(values)


def test_what_keeps_a_model_off_the_graph_is_named() -> None:
    problem, batch = exported(Unknown, 4)
    found = derivatives_used(problem, batch)
    assert found["product"] == "autograd"
    assert "sort" in found["product_refused"]
    Hessian(problem, TensorRows(batch.inputs, batch.targets)).matmat(probe_vectors(problem))
    assert derivatives_used(problem, batch) == found


def test_a_model_on_the_graph_is_refused_nothing() -> None:
    problem, batch = exported(Grouped, 3, 5, 5)
    assert derivatives_used(problem, batch) == {"product": "graph"}


class Functional(nn.Module):
    """Whose calls say whether they write in place."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.head = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, given: Tensor) -> Tensor:
        return self.head(functional.relu(functional.silu(self.inner(given), inplace=False)))


def test_calls_that_say_how_they_write_are_on_the_graph() -> None:
    problem = Problem(Functional().eval(), make_loss("cross_entropy"), dtype=torch.float64)
    batch = problem.placed(Batch((torch.randn(3, 4),), torch.arange(3), 0))
    assert derivatives_used(problem, batch) == {"product": "graph"}
