"""Each kind of curvature on each kind of model: its matrix and its products are those of plain autograd in float64."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from tests.curvatures import CURVATURES, Row, gauss_newton, second_moment
from tests.engine.autodiff.test_exported import exported
from tests.engine.exact import Exact, relative
from tests.engine.models import CASES, Case, make
from workers.engine import (
    BadParameter,
    Over,
    Problem,
    TensorRows,
    UnsupportedOperator,
    make_curvature,
    make_loss,
)
from workers.engine.autodiff.select import products_of
from workers.engine.curvature.dense import by_columns
from workers.engine.curvature.of_rows import CurvatureOfRows

SEED = 5
KINDS = [row for row in CURVATURES.values() if row.kind != "hessian"]
every_kind = pytest.mark.parametrize("row", KINDS, ids=lambda row: row.kind)
every_model = pytest.mark.parametrize("name", CASES)


def problem_of(case: Case, dtype: torch.dtype = torch.float64) -> Problem:
    loss = make_loss(case.loss, **case.loss_parameters)
    return Problem(case.module, loss, case.parameters, dtype=dtype)


def over(case: Case, dtype: torch.dtype = torch.float64, **options: Any) -> Over:
    return Over(problem_of(case, dtype), case.train, seed=SEED, **options)


def labels(row: Row, case: Case) -> Tensor | None:
    return over(case).drawn.labels if row.facts.draws_labels else None


@cache
def known(name: str, kind: str) -> tuple[Case, Tensor]:
    case, row = make(name), CURVATURES[kind]
    return case, row.matrix(Exact(case), labels(row, case))


def vectors(size: int, count: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, size, generator=generator, dtype=torch.float64)


@every_kind
@every_model
def test_its_matrix_is_that_of_plain_autograd(name: str, row: Row) -> None:
    case, exact = known(name, row.kind)
    found = make_curvature(over(case, batch_size=4), row.kind).dense()
    assert relative(found, exact) < 1e-8
    assert torch.equal(found, found.T)
    single = make_curvature(over(case, torch.float32), row.kind).dense()
    assert relative(single, exact) < 1e-5


@pytest.mark.filterwarnings(  # torch's own, while it exports
    "ignore::FutureWarning",
    "ignore::DeprecationWarning",
    "ignore:The tensor attributes:UserWarning",
)
@every_kind
@every_model
@pytest.mark.parametrize("batch_size", ["auto", 1])
def test_the_matrix_of_a_program_is_that_of_plain_autograd(
    name: str, row: Row, batch_size: Any
) -> None:
    """An exported graph shows what a module hides: inside of attention positions come before rows."""
    case, exact = known(name, row.kind)
    program = replace(case, module=exported(case.module, case.inputs))
    found = make_curvature(over(program, batch_size=batch_size), row.kind).dense()
    assert relative(found, exact) < 1e-8


@every_kind
@every_model
def test_its_products_are_those_with_the_matrix(name: str, row: Row) -> None:
    case, exact = known(name, row.kind)
    given = vectors(len(exact))
    curvature = make_curvature(over(case, batch_size=3), row.kind)
    assert relative(curvature.matmat(given), given @ exact) < 1e-8
    assert relative(curvature.matmat(given[:1]), given[:1] @ exact) < 1e-8
    single = make_curvature(over(case, torch.float32), row.kind)
    assert relative(single.matmat(given.float()), given @ exact) < 1e-5
    double = single.in_double()
    assert double is not None
    assert relative(double.matmat(given), given @ exact) < 1e-5  # its rows and labels are float32
    assert curvature.passes == 2


@every_kind
def test_products_over_some_rows_are_means_of_these(row: Row) -> None:
    case, exact = known("perceptron", row.kind)
    given, count = vectors(len(exact)), case.train_count
    curvature = make_curvature(over(case, batch_size=3), row.kind)
    every = torch.arange(count)
    for chosen in (every[::3], every[4:5], torch.tensor([7, 2, 2])):
        found = curvature.sampled_matmat(chosen, given)
        parts = [curvature.sampled_matmat(each[None], given) for each in chosen]
        assert relative(found, torch.stack(parts).mean(0)) < 1e-10
    halves = [curvature.partial_matmat(every[first::2], given) for first in range(2)]
    assert relative(halves[0] + halves[1], given @ exact) < 1e-8
    for _ in range(4):  # from the second time on all rows are linearized together
        assert relative(curvature.sampled_matmat(every, given), given @ exact) < 1e-8


@every_kind
@pytest.mark.parametrize("name", ["perceptron", "convolutional", "tied"])
def test_each_backend_that_works_has_the_same_products(name: str, row: Row) -> None:
    case, exact = known(name, row.kind)
    first = make_curvature(over(case), row.kind)
    assert isinstance(first, CurvatureOfRows)
    backends = [each.name for each in products_of(first.problem, type(first).term)]
    assert backends == ["reverse_loop", "forward_reverse", "first_order", "graph"]
    for backend in backends:
        one = type(first)(first.problem, first.rows, batch_size=5, product=backend)
        given = vectors(len(exact))
        assert relative(one.matmat(given), given @ exact) < 1e-8
        assert one.product_name == backend


class Once(torch.autograd.Function):
    """x², with a first derivative and no more."""

    @staticmethod
    def forward(context: Any, x: Tensor) -> Tensor:
        context.save_for_backward(x)
        return x.square()

    @staticmethod
    @once_differentiable
    def backward(context: Any, cotangent: Tensor) -> Tensor:
        (x,) = context.saved_tensors
        return 2.0 * x * cotangent


class Wrong(torch.autograd.Function):
    """x², whose backward pass hides from autograd what it multiplies the cotangent with, and half of that."""

    @staticmethod
    def forward(context: Any, x: Tensor) -> Tensor:
        context.save_for_backward(x)
        return x.square()

    @staticmethod
    def backward(context: Any, cotangent: Tensor) -> Tensor:
        (x,) = context.saved_tensors
        return x.detach() * (cotangent + cotangent.detach())


class Squared(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function
        self.first, self.last = nn.Linear(4, 3), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.function(self.first(x)))


@every_kind
@pytest.mark.parametrize("function", [Once, Wrong])
def test_a_model_with_nothing_but_a_right_first_derivative_is_taken(
    row: Row, function: type[torch.autograd.Function]
) -> None:
    torch.manual_seed(3)
    plain, given = Squared(torch.square).double(), Squared(function.apply).double()
    given.load_state_dict(plain.state_dict())
    x, y = torch.randn(7, 4), torch.randint(0, 3, (7,))
    rows = TensorRows((x,), y)
    right, found = (
        make_curvature(
            Over(Problem(module, make_loss("cross_entropy"), dtype=torch.float64), rows, seed=SEED),
            row.kind,
        )
        for module in (plain, given)
    )
    exact = right.dense()
    assert relative(found.dense(), exact) < 1e-10
    for count in (1, 3):
        probes = vectors(len(exact), count)
        assert relative(found.matmat(probes), probes @ exact) < 1e-10
    one = torch.tensor([4])
    assert relative(found.sampled_matmat(one, probes), right.sampled_matmat(one, probes)) < 1e-10
    assert isinstance(found, CurvatureOfRows)
    assert found.product_name == "first_order"


def test_many_outputs_of_a_model_without_a_second_derivative_are_refused() -> None:
    module = nn.Sequential(nn.Linear(4, 3), Squared(Once.apply).last, nn.Linear(3, 70))
    module.insert(1, Applied())
    rows = TensorRows((torch.randn(5, 4),), torch.randint(0, 70, (5,)))
    problem = Problem(module, make_loss("cross_entropy"))
    curvature = make_curvature(Over(problem, rows), "gauss_newton")
    with pytest.raises(UnsupportedOperator, match="differentiat"):
        curvature.matmat(torch.randn(2, problem.size))
    fisher = make_curvature(Over(problem, rows), "fisher")
    assert bool(torch.isfinite(fisher.matmat(torch.randn(2, problem.size))).all())


class Applied(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return Once.apply(x)


@every_kind
@every_model
def test_it_has_no_negative_eigenvalue(name: str, row: Row) -> None:
    _, exact = known(name, row.kind)
    values = torch.linalg.eigvalsh(exact)
    assert row.facts.positive
    assert float(values[0]) > -1e-12 * float(values[-1])


@every_kind
def test_sums_over_blocks_of_rows_add_up_to_the_whole(row: Row) -> None:
    """As workers have them: each block numbers its own rows from where it begins."""
    case, exact = known("perceptron", row.kind)
    total = torch.zeros_like(exact)
    for first, stop in ((0, 7), (7, 8), (8, case.train_count)):
        whole = over(case)
        some = TensorRows(
            [each[case.test_count :][first:stop] for each in case.inputs],
            case.train_targets[first:stop],
        )
        part = make_curvature(replace(whole, rows=some, first_row=first), row.kind)
        total += part.dense() * len(some)
    assert relative(total / case.train_count, exact) < 1e-10


@every_kind
@pytest.mark.parametrize("name", ["convolutional", "bag_of_words"])
def test_tiles_below_the_diagonal_are_those_above_it(
    monkeypatch: pytest.MonkeyPatch, name: str, row: Row
) -> None:
    monkeypatch.setattr(by_columns, "NARROWEST_TILE", 5)
    case, exact = known(name, row.kind)
    filled, whole = [], by_columns.fill

    def counted(*given: Any) -> bool:
        filled.append(True)
        return whole(*given)

    monkeypatch.setattr(by_columns, "fill", counted)
    found = make_curvature(over(case, batch_size=4), row.kind).dense()
    assert relative(found, exact) < 1e-8
    assert torch.equal(found, found.T)
    if name == "convolutional":
        assert filled


@every_kind
def test_little_memory_makes_no_difference(row: Row) -> None:
    case, exact = known("convolutional", row.kind)
    assert (
        relative(make_curvature(over(case, budget_bytes=1 << 14), row.kind).dense(), exact) < 1e-8
    )


# --- Labels that are drawn.


def test_labels_depend_on_seed_and_number_alone() -> None:
    case = make("perceptron")
    whole = over(case).drawn.labels
    rows = TensorRows([each[-5:] for each in case.inputs], case.targets[-5:])
    part = Over(problem_of(case), rows, seed=SEED, first_row=case.train_count - 5).drawn
    assert torch.equal(part.labels, whole[-5:])
    small = replace(over(case), budget_bytes=1 << 10).drawn
    assert torch.equal(small.labels, whole)
    assert torch.equal(over(case, torch.float32).drawn.labels, whole)
    assert not torch.equal(replace(over(case), seed=SEED + 1).drawn.labels, whole)
    taken = small.take(torch.tensor([3, 1]))
    assert isinstance(taken.targets, Tensor)
    assert torch.equal(taken.targets, whole[[3, 1]])


def test_labels_that_were_drawn_before_may_be_kept() -> None:
    kept: list[Tensor] = []
    asked: list[str] = []

    def keep(draw: Callable[[], Tensor]) -> Tensor:
        if not kept:
            kept.append(draw())
        return kept[0]

    def progress(stage: str, *_: object) -> None:
        asked.append(stage)

    case = make("perceptron")
    sharing = replace(over(case), keep=keep, progress=progress)
    first, second = (replace(sharing).drawn.labels for _ in range(2))
    assert torch.equal(first, over(case).drawn.labels)
    assert second is first
    assert asked.count("labels") == 1


class Tokens(nn.Module):
    """A number a position and class: (B, T, C)."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(6, 3)
        self.head = nn.Linear(3, 4)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(torch.tanh(self.embedding(tokens)))


def tokens(ignored: int, reduction: str) -> Case:
    torch.manual_seed(2)
    targets = torch.randint(1, 4, (14, 5))
    targets[::2, 3:] = ignored
    targets[5] = ignored  # a row of nothing else

    def loss(output: Tensor, target: Tensor) -> Tensor:
        kept = target != ignored
        losses = F.cross_entropy(
            output.flatten(0, 1), target.flatten(), ignore_index=ignored, reduction="none"
        )
        count = kept.sum().clamp(min=1) if reduction == "mean" else 1
        return losses.sum() / count

    return Case(
        Tokens().double().eval(), (torch.randint(6, (14, 5)),), targets, "cross_entropy", loss,
        loss_parameters={"class_axis": -1, "ignore_index": ignored, "reduction": reduction},
    )  # fmt: skip


def other_losses() -> Iterator[tuple[str, Case]]:
    torch.manual_seed(3)
    x = torch.randn(15, 3, dtype=torch.float64)

    def of(loss: str, reference: Any, targets: Tensor, **parameters: Any) -> Case:
        torch.manual_seed(4)
        module = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
        return Case(module, (x,), targets, loss, reference, loss_parameters=parameters)

    ones = (torch.rand(15, 2) > 0.5).double()
    counts = torch.randint(4, (15, 2)).double()
    numbers = torch.randn(15, 2, dtype=torch.float64)
    for reduction in ("mean", "sum"):
        yield f"mse-{reduction}", of(
            "mse", lambda f, y, r=reduction: F.mse_loss(f, y, reduction=r), numbers,
            reduction=reduction,
        )  # fmt: skip
        yield f"bce-{reduction}", of(
            "bce_with_logits",
            lambda f, y, r=reduction: F.binary_cross_entropy_with_logits(f, y, reduction=r), ones,
            reduction=reduction,
        )  # fmt: skip
    yield "poisson", of(
        "poisson_nll", lambda f, y: F.poisson_nll_loss(f, y, reduction="sum"), counts,
        reduction="sum",
    )  # fmt: skip
    yield "huber", of("huber", lambda f, y: F.huber_loss(f, y, delta=0.5), numbers, delta=0.5)
    yield "gaussian", of(
        "gaussian_nll",
        lambda f, y: 0.5 * (f[:, 1] + (y - f[:, 0]).square() * (-f[:, 1]).exp()).sum(),
        numbers[:, 0],
    )  # fmt: skip
    yield "smoothed", of(
        "cross_entropy", lambda f, y: F.cross_entropy(f, y, label_smoothing=0.1),
        torch.arange(15) % 2, label_smoothing=0.1,
    )  # fmt: skip
    yield (
        "probabilities",
        of("cross_entropy", F.cross_entropy, torch.stack([ones[:, 0], 1 - ones[:, 0]], 1)),
    )
    yield "tokens", tokens(-100, "mean")
    yield "summed tokens", tokens(-100, "sum")
    yield "tokens with a class that is ignored", tokens(0, "mean")


OTHERS = dict(other_losses())


@every_kind
@pytest.mark.parametrize("name", OTHERS)
def test_it_is_that_of_every_loss(name: str, row: Row) -> None:
    case = OTHERS[name]
    problem = problem_of(case)
    refused = {"gauss_newton": problem.loss.no_gauss_newton, "fisher": problem.loss.no_labels}
    if refused.get(row.kind):
        with pytest.raises(BadParameter, match=r"curvature\.kind"):
            make_curvature(over(case), row.kind)
        return
    drawn = labels(row, case)
    if drawn is not None and name.startswith("tokens with"):
        # torch's loss would pass over the class that was drawn: another number is what is ignored.
        case = replace(case, reference_loss=tokens(-100, "mean").reference_loss)
    exact = row.matrix(Exact(case), drawn)
    curvature = make_curvature(over(OTHERS[name], batch_size=4), row.kind)
    given = vectors(len(exact))
    assert relative(curvature.dense(), exact) < 1e-8
    assert relative(curvature.matmat(given), given @ exact) < 1e-8
    assert (
        relative(curvature.sampled_matmat(torch.arange(len(case.train)), given), given @ exact)
        < 1e-8
    )


DRAWS = 100
# What a mean over T labels of a row has of the Gauss-Newton matrix: see the engine's `fisher`.
SHARE = {"bce-mean": 1 / 2}


@pytest.mark.parametrize(
    "name",
    [
        "softmax_regression",
        "mse-mean",
        "mse-sum",
        "bce-mean",
        "bce-sum",
        "poisson",
        "summed tokens",
    ],
)
def test_drawn_labels_have_the_gauss_newton_matrix_in_the_mean(name: str) -> None:
    """Within the standard error of its entries: a wrong scale or distribution is far outside."""
    case = OTHERS.get(name) or make(name)
    problem, exact = problem_of(case), gauss_newton(Exact(case))
    found = torch.stack(
        [
            make_curvature(Over(problem, case.train, seed=seed), "fisher").dense()
            for seed in range(DRAWS)
        ]
    )
    error = found.std(0) / DRAWS**0.5
    off = (found.mean(0) - SHARE.get(name, 1.0) * exact).abs()
    assert bool((off <= 5.0 * error + 1e-12).all())
    assert relative(found.mean(0), SHARE.get(name, 1.0) * exact) < 0.25


def test_drawn_classes_have_the_models_probabilities() -> None:
    """Summed over all classes, each with its probability, g gᵀ is the matrix that drawn ones are near."""
    case = make("perceptron")
    exact = Exact(case)
    total = torch.zeros(2 * [len(exact.theta)], dtype=torch.float64)
    inputs = tuple(each[case.test_count :] for each in case.inputs)
    chances = exact.outputs(exact.theta, inputs).detach().softmax(1)
    for index in range(case.train_count):
        one = Exact(
            replace(
                case,
                inputs=tuple(each[index : index + 1] for each in inputs),
                targets=torch.zeros(1, dtype=torch.int64),
                test_count=0,
            )
        )
        for label, chance in enumerate(chances[index]):
            total += chance * second_moment(one, torch.tensor([label]))
    total /= case.train_count
    assert relative(total, gauss_newton(exact)) < 1e-10
    problem = problem_of(case)
    found = torch.stack(
        [
            make_curvature(Over(problem, case.train, seed=seed), "fisher").dense()
            for seed in range(100)
        ]
    )
    error = found.std(0) / 10.0
    assert float(((found.mean(0) - total).abs() / (error + 1e-12)).max()) < 5.5


# --- What makes no sense.


@pytest.mark.parametrize("kind", ["gauss_newton", "fisher"])
def test_a_program_is_refused_but_for_its_gradients(kind: str) -> None:
    class Losses(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 2)

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return F.cross_entropy(self.layer(x), y, reduction="none")

    module = Losses().double().eval()
    rows = TensorRows(torch.randn(6, 3, dtype=torch.float64), torch.arange(6) % 2)
    problem = Problem(module, make_loss("program"))
    with pytest.raises(BadParameter, match="empirical_fisher"):
        make_curvature(Over(problem, rows), kind)
    gradients = torch.stack(
        [
            torch.cat(
                [
                    each.flatten()
                    for each in torch.autograd.grad(
                        loss, [module.layer.weight, module.layer.bias], retain_graph=True
                    )
                ]
            )
            for loss in module(*(rows.take(torch.arange(6)).inputs), torch.arange(6) % 2)
        ]
    )
    found = make_curvature(Over(problem, rows), "empirical_fisher")
    assert relative(found.dense(), gradients.T @ gradients / 6) < 1e-12
    assert relative(found.matmat(gradients), gradients @ gradients.T @ gradients / 6) < 1e-12


def test_log_probabilities_have_a_fisher_matrix_and_no_gauss_newton_matrix() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 3), nn.LogSoftmax(1)).double().eval()
    rows = TensorRows(torch.randn(6, 3, dtype=torch.float64), torch.arange(6) % 3)
    problem = Problem(module, make_loss("nll"))
    with pytest.raises(BadParameter, match="is 0; take fisher"):
        make_curvature(Over(problem, rows), "gauss_newton")
    logits = Problem(module[:1], make_loss("cross_entropy"))
    expected = make_curvature(Over(logits, rows, seed=3), "fisher").dense()
    assert relative(make_curvature(Over(problem, rows, seed=3), "fisher").dense(), expected) < 1e-10


def test_rates_below_zero_are_refused_where_labels_are_drawn() -> None:
    torch.manual_seed(0)
    rows = TensorRows(torch.randn(6, 3, dtype=torch.float64), torch.ones(6, 1).double())
    problem = Problem(nn.Linear(3, 1).double(), make_loss("poisson_nll", log_input=False))
    with pytest.raises(BadParameter, match="must be a number of at least 0"):
        make_curvature(Over(problem, rows), "fisher").dense()


def test_unknown_kinds_and_structures_are_refused() -> None:
    with pytest.raises(BadParameter, match=r"curvature\.kind.*hessian, gauss_newton"):
        make_curvature(over(make("perceptron")), "jacobian")
    with pytest.raises(BadParameter, match=r"curvature\.structure"):
        make_curvature(over(make("perceptron")), "fisher", "half")
