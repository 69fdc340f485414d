"""Models as programs: exported graphs give what the modules they came from give."""

from __future__ import annotations

import io

import pytest
import torch
from torch import Tensor, fx, nn
from torch.export import Dim, export, load, save

from tests.engine.exact import relative
from tests.engine.matrices import with_damping
from tests.engine.models import BagOfWords, Case, make
from workers.engine import (
    Direct,
    Hessian,
    NoSuchParameter,
    Problem,
    TensorRows,
    TrainingMode,
    check_problem,
    make_loss,
    per_example_gradients,
    perturb_at,
    perturbation,
    row_gradients,
    up,
)
from workers.engine.autodiff.gradients import gradient_backend

pytestmark = pytest.mark.filterwarnings(  # torch's own, while it exports
    "ignore::FutureWarning",
    "ignore::DeprecationWarning",
    "ignore:The tensor attributes:UserWarning",
)


def exported(module: nn.Module, inputs: tuple[Tensor, ...]) -> nn.Module:
    """Through a file, with a dynamic number of rows, as users send it."""
    rows = Dim("batch")
    shapes = tuple({0: rows} for _ in inputs)
    program = export(module, tuple(each[:4] for each in inputs), dynamic_shapes=shapes)
    buffer = io.BytesIO()
    save(program, buffer)
    buffer.seek(0)
    return load(buffer).module()


def influences(case: Case, module: nn.Module, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    problem = Problem(module, make_loss(case.loss), case.parameters, dtype=dtype)
    check_problem(problem, next(case.train.batches(3)))
    rhs = torch.cat([each for _, each in row_gradients(problem, case.test)])
    factors = Direct().solve(*with_damping(Hessian(problem, case.train, batch_size=4), 10.0), rhs).x
    dense = Hessian(problem, case.train).dense()
    return torch.cat([each for _, each in up(problem, factors, case.train)], 1), dense


@pytest.mark.parametrize(
    "name",
    [
        "linear_regression",
        "perceptron",
        "convolutional",
        "encoder",
        "tied",
        "bag_of_words",
        "masked_pair",
        "group_norm",
        "recurrent",
    ],
)
def test_an_exported_program_gives_what_its_module_gives(name: str) -> None:
    case = make(name)
    program = exported(case.module, case.inputs)
    for found, expected in zip(
        influences(case, program, torch.float64),
        influences(case, case.module, torch.float64),
        strict=True,
    ):
        assert relative(found, expected) < 1e-11


@pytest.mark.parametrize("name", ["perceptron", "convolutional", "encoder"])
def test_a_program_exported_in_single_precision_can_be_run_in_double(name: str) -> None:
    case = make(name)
    module = case.module.float()
    inputs = tuple(each.float() for each in case.inputs)
    found, _ = influences(case, exported(module, inputs), torch.float64)
    expected, _ = influences(case, module, torch.float64)
    assert relative(found, expected) < 1e-11


def test_a_traced_graph_works_as_its_module() -> None:
    case = make("perceptron")
    found, _ = influences(case, fx.symbolic_trace(case.module), torch.float64)
    expected, _ = influences(case, case.module, torch.float64)
    assert relative(found, expected) < 1e-12


@pytest.mark.parametrize("layer", [nn.Dropout(0.3), nn.BatchNorm1d(4)], ids=["dropout", "norm"])
def test_a_program_exported_in_training_mode_is_refused(layer: nn.Module) -> None:
    module = nn.Sequential(nn.Linear(4, 4), layer, nn.Linear(4, 3)).train()
    with pytest.raises(TrainingMode):
        Problem(exported(module, (torch.randn(5, 4),)), make_loss("cross_entropy"))


def test_perturbation_of_a_program_is_that_of_its_module() -> None:
    case = make("convolutional")
    blocks = []
    for module in (case.module, exported(case.module, case.inputs)):
        problem = Problem(module, make_loss(case.loss))
        factors = torch.randn(
            2, problem.size, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
        )
        found = perturbation(problem, factors, case.train, batch_size=3)
        blocks.append(torch.cat([each for _, each in found], 1))
    assert relative(blocks[1], blocks[0]) < 1e-11


def test_the_inside_of_a_program_can_be_perturbed_by_module_name() -> None:
    case = make("bag_of_words")
    blocks = []
    for module in (case.module, exported(case.module, case.inputs)):
        problem = Problem(module, make_loss(case.loss))
        factors = torch.randn(
            2, problem.size, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
        )
        for _ in range(2):  # twice on one problem: the first leaves no trace
            found = perturb_at(problem, factors, case.train, module="embedding", batch_size=5)
            blocks.append(torch.cat([each for _, each in found], 1))
    assert all(relative(each, blocks[0]) < 1e-11 for each in blocks[1:])
    assert float(blocks[0].abs().max()) > 0


@pytest.mark.parametrize("begun", [False, True])
def test_what_was_perturbed_before_leaves_the_bits_of_all_else_as_they_are(begun: bool) -> None:
    """A worker that has looked inside a program, and one that has only just loaded it, do blocks of one job."""
    torch.manual_seed(1)
    x = torch.randn(40, 6)
    rows = TensorRows(x, (x[:, 0] > 0).long())
    module = nn.Sequential(nn.Linear(6, 10), nn.Tanh(), nn.Linear(10, 3)).eval()
    program = exported(module, (x,))
    fresh, used = (Problem(program, make_loss("cross_entropy")) for _ in range(2))
    if begun:
        per_example_gradients(used, next(rows.batches(4)))
    for name in ("1", "0"):
        assert list(perturb_at(used, torch.ones(1, used.size), rows, module=name))
    found = []
    for problem in (fresh, used):
        hessian = with_damping(Hessian(problem, rows), 1.0)
        vectors = torch.eye(problem.size)[:5]
        batches = [next(rows.batches(size)) for size in (1, 7)]
        numbers = [
            hessian.dense(),
            hessian.matmat(vectors),
            *(per_example_gradients(problem, each) for each in batches),
        ]
        found.append((gradient_backend(problem), hessian.product_name, numbers))
    assert found[0][:2] == found[1][:2] == ("by_graph", "graph")
    assert all(map(torch.equal, found[0][2], found[1][2]))


def test_an_unknown_inner_module_of_a_program_names_those_there_are() -> None:
    module = BagOfWords().double().eval()
    problem = Problem(exported(module, (torch.randint(7, (4, 4)),)), make_loss("cross_entropy"))
    rows = make("bag_of_words").train
    with pytest.raises(NoSuchParameter, match="embedding"):
        list(
            perturb_at(
                problem, torch.ones(1, problem.size, dtype=torch.float64), rows, module="encoder"
            )
        )
