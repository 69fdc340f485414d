"""Programs in several floating-point types, and with types that none said, follow the one that is asked for.

Each model has a twin for the formula: the same parameters in float64, every constant made in float64, no cast.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.engine.matrices import with_damping
from upweight.export import save_program
from workers.checks.model import check_model
from workers.engine import (
    Batch,
    ConjugateGradients,
    Hessian,
    MixedPrecision,
    Problem,
    TensorRows,
    make_loss,
    per_example_gradients,
)
from workers.engine.model.dtypes import follow, own_dtype, refuse_mixed
from workers.programs.pt2 import read_pt2

pytestmark = pytest.mark.filterwarnings("ignore")  # torch's own, while it exports
ROWS, CLASSES = 7, 3
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-5}  # of the largest number
Cast = Callable[[Tensor], Tensor]


class Dtypes:
    """What a model casts to where; the twin's are all float64 and its casts leave floats as they are."""

    def __init__(self, default: torch.dtype | None, casts: bool) -> None:
        self.default = default  # of factories: None lets torch choose
        self.casts = casts

    def to(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        if self.casts:
            return x.to(dtype)
        return x if x.is_floating_point() else x.double()


class Model(nn.Module):
    """Two layers around what a case does with a row (B, 3, 2)."""

    def __init__(self, between: Callable[[Model, Tensor, Dtypes], Tensor], dtypes: Dtypes) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(2, 4), nn.Linear(4, CLASSES)
        self.register_buffer("scale", torch.tensor([0.3, 0.7, 1.1, 1.3], dtype=torch.float64))
        self.register_buffer("order", torch.tensor([2, 0, 3, 1]))
        self.register_buffer("wave", torch.tensor([1 + 2j, 0.5j, 2 - 1j], dtype=torch.complex64))
        self.between, self.dtypes = between, dtypes

    def forward(self, x: Tensor) -> Tensor:
        return self.between(self, x, self.dtypes)


def identity_and_mask(model: Model, x: Tensor, is_: Dtypes) -> Tensor:
    x = torch.tril(torch.ones(3, 3, dtype=is_.default)) @ x @ torch.eye(2, dtype=is_.default)
    mask = torch.triu(torch.full((3, 3), -torch.inf, dtype=is_.default), 1)
    return model.b(((x @ x.transpose(1, 2) + mask).softmax(-1) @ model.a(x)).mean(1))


def positions(model: Model, x: Tensor, is_: Dtypes) -> Tensor:
    number = torch.arange(3)[:, None] if is_.casts else torch.arange(3).double()[:, None]
    rates = torch.exp(torch.arange(0, 2, dtype=is_.default or torch.float32) * -math.log(100.0) / 2)
    steps = torch.arange(0.1, 0.35, 0.1, dtype=is_.default)[:, None]
    return model.b(model.a(x + torch.sin(number * rates) + steps).tanh().mean(1))


def promoted_integers(model: Model, x: Tensor, is_: Dtypes) -> Tensor:
    number = torch.arange(1, 4) if is_.casts else torch.arange(1, 4).double()
    even = torch.arange(3) % 2 == 0
    weight = torch.where(even, 0.1, 0.7) if is_.casts else 0.7 - 0.6 * even.double()
    weight = weight + 1 / number + torch.sqrt(number) * 0.3 + (1.0 - 0.3 * is_.to(even, x.dtype))
    return model.b((model.a(x) * weight[:, None]).tanh().mean(1))


def first_states(model: Model, x: Tensor, is_: Dtypes) -> Tensor:
    state = torch.zeros(x.shape[0], 4, dtype=is_.default)
    for step in range(3):
        state = torch.tanh(model.a(x[:, step]) + 0.5 * state)
    return model.b(state + torch.linspace(0, 1, 4, dtype=is_.default))


def double_inside(model: Model, x: Tensor, is_: Dtypes) -> Tensor:
    hidden = torch.log1p(is_.to(model.a(x), torch.float64).exp())
    return model.b(is_.to(hidden, torch.float32).mean(1) * torch.tensor(0.5))


def half_inside(model: Model, x: Tensor, is_: Dtypes) -> Tensor:
    hidden = is_.to(model.a(x), torch.float16).tanh()
    return model.b(is_.to(is_.to(hidden, torch.bfloat16).mean(1), torch.float32))


def autocast(model: Model, x: Tensor, is_: Dtypes) -> Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=is_.casts):
        hidden = model.a(x).tanh()
    return model.b(is_.to(hidden, torch.float32).mean(1))


def buffers(model: Model, x: Tensor, is_: Dtypes) -> Tensor:
    hidden = is_.to(model.a(x).mean(1) * model.scale, torch.float32)
    return model.b(hidden[:, model.order].sigmoid())


def complex_numbers(model: Model, x: Tensor, is_: Dtypes) -> Tensor:
    number = torch.arange(3) if is_.casts else torch.arange(3).double()
    wave = model.wave if is_.casts else model.wave.to(torch.complex128)
    spectrum = torch.fft.rfft(model.a(x).tanh().mean(1), n=4) * wave * torch.exp(number * 1j)
    return model.b(torch.fft.irfft(spectrum, n=4))


def always_double(model: Model, x: Tensor, is_: Dtypes) -> Tensor:
    hidden = torch.float_power(model.a(x).sigmoid().mean(1), 1.5)
    return model.b(is_.to(hidden, torch.float32))


def lowest_number(model: Model, x: Tensor, is_: Dtypes) -> Tensor:
    lowest = torch.finfo(x.dtype).min
    scores = (x @ x.transpose(1, 2)).masked_fill(torch.ones(3, 3, dtype=torch.bool).triu(1), lowest)
    return model.b((scores.softmax(-1) @ model.a(x)).mean(1))


CASES = [
    identity_and_mask, positions, promoted_integers, first_states, double_inside, half_inside, autocast, buffers,
    complex_numbers, always_double, lowest_number,
]  # fmt: skip


@dataclass
class Subject:
    """A program in an archive, rows, and what the formula says: gradients (n, p) and H (p, p) in float64."""

    path: Path
    x: Tensor
    y: Tensor
    gradients: Tensor
    hessian: Tensor


def subject(
    path: Path, module: nn.Module, twin: nn.Module, *, example: Cast = Tensor.float
) -> Subject:
    x = torch.randn(ROWS, 3, 2, generator=torch.Generator().manual_seed(1))
    y = torch.arange(ROWS) % CLASSES
    save_program(module, example(x), path)
    return Subject(path, x, y, *formula(twin, x.double(), y))


def formula(twin: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients (n, p) and H (p, p)."""
    parameters = list(twin.parameters())

    def flat(of: Tensor, **keep: bool) -> Tensor:
        found = torch.autograd.grad(of, parameters, **keep)
        return torch.cat([each.reshape(-1) for each in found])

    losses = F.cross_entropy(twin(x), y, reduction="none")
    gradients = torch.stack([flat(each, create_graph=True) for each in losses])
    hessian = torch.stack([flat(each, retain_graph=True) for each in gradients.mean(0)])
    return gradients.detach(), hessian


def in_one_dtype(module: Model) -> Model:
    """Its twin: the same parameters in float64, and no cast."""
    twin = copy.deepcopy(module).double()
    twin.dtypes = Dtypes(torch.float64, casts=False)
    twin.wave = module.wave
    return twin


Of = Callable[..., Subject]


@pytest.fixture(scope="module")
def of_case(tmp_path_factory: pytest.TempPathFactory) -> Of:
    """Subjects by their case and the dtype of their module; each is exported once."""
    made: dict[Any, Subject] = {}
    folder = tmp_path_factory.mktemp("programs")

    def of(case: Any, dtype: torch.dtype = torch.float32) -> Subject:
        if (case, dtype) not in made:
            torch.manual_seed(0)
            module = Model(case, Dtypes(None, casts=True)).to(dtype)
            path = folder / f"{len(made)}.pt2"
            made[case, dtype] = subject(
                path, module, in_one_dtype(module), example=lambda x: x.to(dtype)
            )
        return made[case, dtype]

    return of


def off(found: Tensor, exact: Tensor) -> float:
    return float((found.double() - exact).abs().max() / exact.abs().max())


def assert_right(given: Subject, dtype: torch.dtype) -> None:
    program = read_pt2(given.path)
    problem = Problem(program.module, make_loss("cross_entropy"), dtype=dtype)
    rows = TensorRows([given.x], given.y)
    gradients = per_example_gradients(problem, Batch((given.x,), given.y, 0))
    hessian = Hessian(problem, rows)
    products = hessian.matmat(torch.eye(problem.size, dtype=dtype))
    for found, exact in (
        (gradients, given.gradients),
        (hessian.dense(), given.hessian),
        (products, given.hessian),
    ):
        assert found.dtype == dtype
        assert off(found, exact) < TOLERANCE[dtype]


@pytest.mark.parametrize("case", CASES)
def test_gradients_and_hessian_are_in_the_precision_asked_for(case: Any, of_case: Of) -> None:
    given = of_case(case)
    for dtype in (torch.float64, torch.float32):
        assert_right(given, dtype)


def test_the_lowest_number_of_float64_is_that_of_float32_there(of_case: Of) -> None:
    assert_right(of_case(lowest_number, torch.float64), torch.float32)


@pytest.mark.parametrize("part", [torch.float64, torch.float16, torch.bfloat16])
def test_a_part_in_another_type_is_computed_in_the_one_asked_for(
    part: torch.dtype, tmp_path: Path
) -> None:
    def cast_between(model: Model, x: Tensor, is_: Dtypes) -> Tensor:
        return model.b(is_.to(model.a(x).tanh(), part).mean(1))

    torch.manual_seed(0)
    module = Model(cast_between, Dtypes(None, casts=True))
    module.b.to(part)
    given = subject(tmp_path / "model.pt2", module, in_one_dtype(module))
    for dtype in (torch.float64, torch.float32):
        assert_right(given, dtype)


@pytest.mark.parametrize("case", [identity_and_mask, first_states, promoted_integers])
def test_residuals_of_cg_are_refined_in_float64(case: Any, of_case: Of) -> None:
    given = of_case(case)
    problem = Problem(read_pt2(given.path).module, make_loss("cross_entropy"))
    hessian = with_damping(Hessian(problem, TensorRows([given.x], given.y)), 1.0)
    rhs = given.gradients[:2].float()
    solution = ConjugateGradients(rtol=1e-11, atol=0.0).solve(*hessian, rhs)
    assert solution.info["refined"]
    damped = given.hessian + torch.eye(problem.size, dtype=torch.float64)
    left = rhs.double() - solution.x @ damped
    assert float(left.norm() / rhs.double().norm()) < 1e-10


@pytest.mark.parametrize(
    ("case", "dtype", "own"),
    [
        (identity_and_mask, torch.float32, torch.float32),
        (lowest_number, torch.float64, torch.float64),
        (double_inside, torch.float32, torch.float64),
        (half_inside, torch.float32, torch.float32),
        (autocast, torch.float32, torch.float32),
    ],
)
def test_a_models_own_precision_is_the_widest_that_it_computes_in(
    case: Any, dtype: torch.dtype, own: torch.dtype, of_case: Of
) -> None:
    assert own_dtype(read_pt2(of_case(case, dtype).path).module) == own


def checked(path: Path) -> dict[str, Any]:
    return check_model("pt2", str(path), {"name": "cross_entropy"}, ["*"], "sanitized")


def test_the_check_says_what_jobs_compute_in_and_what_was_in_half_precision(of_case: Of) -> None:
    report = checked(of_case(half_inside).path)
    assert (report["dtype"], report["precision"]) == ("float32", "float32")
    assert "in half precision, computed in float32" in report["precision_note"]
    assert "tanh" in report["precision_note"]


def test_the_bytes_of_a_number_as_an_integer_are_refused(tmp_path: Path) -> None:
    def bits(model: Model, x: Tensor, is_: Dtypes) -> Tensor:
        return model.b(model.a(x).mean(1)) * (model.b.bias.view(torch.int32) % 2)

    save_program(Model(bits, Dtypes(None, True)), torch.randn(2, 3, 2), tmp_path / "model.pt2")
    with pytest.raises(Exception, match=r"reads the bytes of a tensor as torch\.int32"):
        read_pt2(tmp_path / "model.pt2")


def test_a_node_that_does_not_follow_is_refused_by_its_name(of_case: Of) -> None:
    module = read_pt2(of_case(double_inside).path).module
    for node in module.graph.nodes:  # as an operator would do that makes a type of its own
        if "log1p" in node.name:
            node.target = lambda x: torch.log1p(x).half()
    module.recompile()
    with pytest.raises(
        MixedPrecision, match=r"node log1p.*can't be computed in float32: .*float16"
    ):
        refuse_mixed(module, [torch.zeros(2, 3, 2)])


def test_following_twice_is_following_once(of_case: Of) -> None:
    given = of_case(promoted_integers)
    module = read_pt2(given.path).module
    follow(module, torch.float32)
    follow(module, torch.float64)
    once = read_pt2(given.path).module
    follow(once, torch.float64)
    assert len(module.graph.nodes) == len(once.graph.nodes)
    x = given.x.double()
    torch.testing.assert_close(module.double()(x), once.double()(x), rtol=0, atol=0)


class Live(nn.Module):
    """Not a graph: as factories make models."""

    def __init__(self, dtype: torch.dtype | None) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(2, 4), nn.Linear(4, CLASSES)
        self.dtype = dtype  # of the twin; None is as people write

    def forward(self, x: Tensor) -> Tensor:
        number = torch.arange(3) if self.dtype is None else torch.arange(3, dtype=self.dtype)
        even = torch.arange(3) % 2 == 0
        weight = torch.where(even, 0.1, 0.7) if self.dtype is None else 0.7 - 0.6 * even.double()
        hidden = self.a(x + (torch.sin(number / 7) + torch.sqrt(number) + weight)[:, None])
        hidden = hidden.float() if self.dtype is None else hidden
        hidden = torch.tril(torch.ones(3, 3, dtype=self.dtype)) @ hidden.tanh()
        return self.b(hidden.mean(1) * torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=self.dtype))


def test_a_live_modules_casts_and_factories_follow_too() -> None:
    torch.manual_seed(0)
    module, twin = Live(None), Live(torch.float64).double()
    twin.load_state_dict(module.state_dict())
    x = torch.randn(ROWS, 3, 2)
    gradients, hessian = formula(twin, x.double(), torch.arange(ROWS) % CLASSES)
    for dtype in (torch.float64, torch.float32):
        problem = Problem(module, make_loss("cross_entropy"), dtype=dtype)
        rows = TensorRows([x], torch.arange(ROWS) % CLASSES)
        found = per_example_gradients(problem, next(rows.batches(ROWS)))
        assert off(found, gradients) < TOLERANCE[dtype]
        assert off(Hessian(problem, rows).dense(), hessian) < TOLERANCE[dtype]


class Selecting(nn.Module):
    """Has whole numbers among its parameters, as quantised layers do."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(2, CLASSES)
        self.kept = nn.Parameter(torch.tensor([1, 0]), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.a((x * self.kept).mean(1))


def test_whole_numbers_among_the_parameters_are_held_fixed_or_refused_by_name(
    tmp_path: Path,
) -> None:
    path = tmp_path / "model.pt2"
    save_program(Selecting(), torch.randn(2, 3, 2), path)
    report = check_model("pt2", str(path), {"name": "cross_entropy"}, None, "sanitized")
    assert (report["precision"], report["parameter_count"]) == ("float32", 9)
    refused = checked(path)["refusal"]
    assert "parameters = 'kept': it is of int64" in refused["detail"]
    assert refused["errors"][0]["pointer"] == "/parameters"
