"""The written-out product and its perturbation against torch's own double backward, in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tests.engine.exact import relative
from tests.engine.models import make
from workers.engine import Batch, Hessian, Problem, TensorRows, make_loss, perturbation
from workers.engine.autodiff.derivative import Derivative
from workers.engine.autodiff.graph.linearized import AnalyticMixed, analytic_hvp
from workers.engine.autodiff.graph.trace import traced
from workers.engine.autodiff.hvp import ReverseLoop
from workers.engine.autodiff.mixed import InputVariable, MixedReverseLoop
from workers.engine.errors import BadParameter
from workers.engine.model.second_order import twice_differentiable

# Since then torch differentiates group norm twice over a batch of vectors, too.
BATCHES_GROUP_NORM = tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 14)


class Attention(nn.Module):
    """Embedded rows, a learned position, heads, residual paths and layer norm."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.parts = nn.Linear(3, 4), nn.Linear(4, 12)
        self.position = nn.Parameter(torch.randn(5, 4))
        self.norm, self.head = nn.LayerNorm(4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.embed(x) + self.position
        query, key, value = self.parts(hidden).unflatten(-1, (3, 2, 2)).permute(2, 0, 3, 1, 4)
        scores = query @ key.transpose(-2, -1) / query.shape[-1] ** 0.5
        mixed = (scores.softmax(-1) @ value).transpose(1, 2).flatten(2)
        return self.head(self.norm(hidden + mixed).mean(1))


class Split(nn.Module):
    """Differences, products, pieces of one tensor and a row's mean taken off."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 6), nn.Linear(3, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.first(x).chunk(2, dim=1)
        left = left - right.mean(1, keepdim=True)
        return self.second(left * torch.sigmoid(right)) + 2.0 * left


class Everything(nn.Module):
    """Whatever else has a rule: masks, products of nodes, sums of one node, constants, heads."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.gate = nn.Linear(3, 4), nn.Linear(4, 4)
        self.register_buffer("mask", torch.tensor([[True], [False], [True], [True], [False]]))
        self.last = nn.Sequential(nn.Linear(4, 3), nn.LogSoftmax(dim=-1))

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first(x)
        hidden = hidden.masked_fill(self.mask, 0.5) + hidden + 0.1 * (hidden * hidden)
        hidden = torch.where(self.mask, hidden, 0.0) * torch.sigmoid(self.gate(hidden))
        hidden = 1.0 - hidden * hidden.mean(-1, keepdim=True) / 2.0
        mixed = nn.functional.scaled_dot_product_attention(hidden, hidden, x @ x.mT @ hidden)
        causal = nn.functional.scaled_dot_product_attention(
            hidden, torch.tanh(hidden), mixed, is_causal=True
        )
        return self.last((mixed + causal + hidden)[:, -1] - causal[:, 0])


class Words(nn.Module):
    """An embedding with a padding row that is also the last layer, and a table of positions."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.where = nn.Embedding(7, 4, padding_idx=0), nn.Embedding(5, 4)
        self.register_buffer("numbers", torch.arange(5).unsqueeze(0))
        self.mix = nn.Linear(4, 4)

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = torch.tanh(self.mix(self.table(tokens) + self.where(self.numbers))).mean(1)
        return nn.functional.linear(hidden, self.table.weight)[:, :3]


def residual_network() -> nn.Module:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3))

        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(x + self.inner(x))

    return nn.Sequential(
        nn.Conv2d(2, 3, (3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2)),
        nn.BatchNorm2d(3),
        nn.GELU(),
        Block(),
        nn.MaxPool2d(3, stride=1, padding=1),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(6, 3),
    )


def large_images() -> nn.Module:
    """Too large for a convolution to be one matrix over all places."""
    return nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1),
        nn.Softplus(),
        nn.Conv2d(3, 2, (2, 3), stride=2, bias=False),
        nn.Tanh(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(8, 3),
    )


def along_a_line() -> nn.Module:
    layers = (nn.Conv1d(2, 3, 3, bias=False), nn.Tanh(), nn.AdaptiveAvgPool1d(2), nn.Flatten())
    return nn.Sequential(*layers, nn.Linear(6, 3))


MODELS = {
    "attention": (Attention, (5, 3)),
    "residual_network": (residual_network, (2, 4, 6)),
    "along_a_line": (along_a_line, (2, 7)),
    "split": (Split, (4,)),
    "large_images": (large_images, (2, 9, 8)),
    "everything": (Everything, (5, 3)),
    "words": (Words, ()),
}
SELECTIONS = [("*",), ("*bias",), ("*weight",)]


def problem_of(name: str, parameters: tuple[str, ...] = ("*",)) -> tuple[Problem, Batch]:
    torch.manual_seed(3)
    build, shape = MODELS[name]
    module = build().double()
    for each in module.modules():
        if isinstance(each, nn.BatchNorm2d):
            each.running_mean = torch.randn(3, dtype=torch.float64)
            each.running_var = torch.rand(3, dtype=torch.float64) + 0.5
    given = torch.randn(7, *shape, dtype=torch.float64) if shape else torch.randint(7, (7, 5))
    batch = Batch((given,), torch.arange(7) % 3, 0)
    return Problem(module.eval(), make_loss("cross_entropy"), parameters), batch


def applied(way: Derivative, problem: Problem, batch: Batch, vectors: Tensor) -> Tensor:
    with twice_differentiable():
        return way.prepare(problem, batch)(vectors)


@pytest.mark.parametrize("parameters", SELECTIONS, ids=str)
@pytest.mark.parametrize("name", MODELS)
def test_products_are_those_of_autograd(name: str, parameters: tuple[str, ...]) -> None:
    problem, batch = problem_of(name, parameters)
    way = analytic_hvp(problem)
    assert way is not None
    vectors = torch.randn(3, problem.size, dtype=torch.float64)
    expected = applied(ReverseLoop(), problem, batch, vectors)
    assert relative(applied(way, problem, batch, vectors), expected) < 1e-12


@pytest.mark.parametrize("parameters", SELECTIONS, ids=str)
@pytest.mark.parametrize("name", sorted(set(MODELS) - {"words"}))
def test_perturbations_are_those_of_autograd(name: str, parameters: tuple[str, ...]) -> None:
    problem, batch = problem_of(name, parameters)
    graph = traced(problem)
    assert graph is not None
    vectors = torch.randn(3, problem.size, dtype=torch.float64)
    expected = applied(MixedReverseLoop(InputVariable()), problem, batch, vectors)
    assert relative(applied(AnalyticMixed(graph), problem, batch, vectors), expected) < 1e-12


@pytest.mark.parametrize("name", MODELS)
def test_exported_programs_are_written_out_too(name: str) -> None:
    problem, batch = problem_of(name)
    rows = torch.export.Dim("rows", min=2, max=64)
    program = torch.export.export(problem.module, batch.inputs, dynamic_shapes=({0: rows},))
    exported = Problem(program.module(), make_loss("cross_entropy"), ("*",))
    way = analytic_hvp(exported)
    assert way is not None
    vectors = torch.randn(3, problem.size, dtype=torch.float64)
    expected = applied(ReverseLoop(), exported, batch, vectors)
    assert relative(applied(way, exported, batch, vectors), expected) < 1e-12


@pytest.mark.parametrize(
    ("name", "way"),
    [
        ("attention", "graph"),
        ("convolutional", "graph"),
        ("group_norm", "reverse_batched" if BATCHES_GROUP_NORM else "reverse_loop"),
        ("recurrent", "reverse_batched"),
    ],
)
def test_the_way_is_chosen_by_a_rule_and_the_same_in_every_process(name: str, way: str) -> None:
    if name in MODELS:
        problem, batch = problem_of(name)
        rows = TensorRows(batch.inputs, batch.targets)
    else:
        case = make(name)
        problem, rows = Problem(case.module, make_loss(case.loss)), case.train
    vectors = torch.randn(3, problem.size, dtype=torch.float64)
    found = [Hessian(problem, rows) for _ in range(2)]
    one, other = (hessian.matmat(vectors) for hessian in found)
    assert [hessian.product_name for hessian in found] == [way, way]
    assert torch.equal(one, other)


def test_where_a_convolution_is_left_to_torch_no_way_vectorises_it() -> None:
    module = nn.Sequential(
        nn.Conv1d(2, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(), nn.Flatten(), nn.Linear(20, 3)
    )
    rows = TensorRows(torch.randn(6, 2, 7), torch.arange(6) % 3)
    hessian = Hessian(Problem(module.eval(), make_loss("cross_entropy")), rows)
    hessian.matmat(torch.randn(3, hessian.shape[0]))
    assert hessian.product_name == "reverse_loop"


def test_the_way_can_be_fixed_by_its_name() -> None:
    problem, batch = problem_of("attention")
    rows = TensorRows(batch.inputs, batch.targets)
    vectors = torch.randn(2, problem.size, dtype=torch.float64)
    expected = Hessian(problem, rows, product="graph").matmat(vectors)
    for name in ("reverse_loop", "reverse_batched", "forward_over_reverse"):
        hessian = Hessian(problem, rows, product=name)
        assert relative(hessian.matmat(vectors), expected) < 1e-12
        assert hessian.product_name == name
    with pytest.raises(BadParameter, match="reverse_loop"):
        Hessian(problem, rows, product="abacus").matmat(vectors)
    with pytest.raises(BadParameter, match="wrong, for this model"):
        # torch 2.13 errs by as much as the result here, without a word.
        next(perturbation(problem, vectors, rows, product="mixed_forward"))
    one, other = (
        torch.cat([each for _, each in perturbation(problem, vectors, rows, product=name)], 1)
        for name in ("mixed_graph", "mixed_reverse_loop")
    )
    assert relative(one, other) < 1e-12


def test_a_transformer_exported_with_its_fused_layer_is_written_out() -> None:
    layer = nn.TransformerEncoderLayer(4, 2, 6, dropout=0.0, batch_first=True, norm_first=True)
    module = nn.Sequential(layer, nn.Flatten(), nn.Linear(12, 3)).double().eval()
    x = torch.randn(6, 3, 4, dtype=torch.float64)
    rows = torch.export.Dim("rows", min=2, max=64)
    program = torch.export.export(module, (x,), dynamic_shapes=({0: rows},))
    problem = Problem(program.module(), make_loss("cross_entropy"))
    hessian = Hessian(problem, TensorRows(x, torch.arange(6) % 3))
    vectors = torch.randn(3, problem.size, dtype=torch.float64)
    found = hessian.matmat(vectors)
    assert hessian.product_name == "graph"
    plain = Hessian(problem, hessian.rows, product="reverse_loop")
    assert relative(found, plain.matmat(vectors)) < 1e-12


@pytest.mark.parametrize("name", ["recurrent", "masked_pair", "group_norm", "bag_of_words"])
def test_a_model_without_rules_is_left_to_torch(name: str) -> None:
    case = make(name)
    problem = Problem(case.module, make_loss(case.loss))
    hessian = Hessian(problem, case.train)
    vectors = torch.randn(2, problem.size, dtype=torch.float64)
    expected = Hessian(problem, case.train, product="reverse_loop").matmat(vectors)
    assert relative(hessian.matmat(vectors), expected) < 1e-12
