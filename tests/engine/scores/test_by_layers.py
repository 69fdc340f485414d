"""Factors that meet rows layer by layer, against gradients by plain autograd."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from tests.engine.exact import Exact, relative
from tests.engine.models import make
from workers.engine import Problem, TensorRows, make_loss, up
from workers.engine.autodiff.gradients import GradientBackends
from workers.engine.scores import by_layers
from workers.engine.scores import up as weighting
from workers.engine.scores.by_layers import ByLayers

ROWS = 7


@pytest.fixture(autouse=True)
def _of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weighting, "LONG_GRADIENT", 1)
    monkeypatch.setattr(weighting, "MANY_GRADIENTS", 1)


def joined(blocks: Iterator[tuple[slice, Tensor]]) -> Tensor:
    return torch.cat([each for _, each in blocks], 1)


class Stored(nn.Module):
    """A weight that is stored by its inputs, at each of several tokens, and added to twice."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.shift = nn.Parameter(torch.randn(4, 6)), nn.Parameter(torch.randn(6))
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        inner = torch.addmm(self.shift, x.flatten(0, 1), self.inner).unflatten(0, x.shape[:2])
        return self.head(torch.tanh(inner)).sum(1)


class Reader(nn.Module):
    """An embedding with padding whose weight is the head's, a norm, and a layer over tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 4, padding_idx=0)
        self.inner, self.norm = nn.Linear(4, 4), nn.LayerNorm(4)

    def forward(self, tokens: Tensor) -> Tensor:
        inner = self.norm(torch.tanh(self.inner(self.embedding(tokens))))
        return F.linear(inner.mean(1), self.embedding.weight)


class Half(nn.Module):
    """A layer, and a parameter that no rule explains."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.curved = nn.Linear(4, 3), nn.Parameter(torch.randn(3))

    def forward(self, x: Tensor) -> Tensor:
        inner: Tensor = self.inner(x)
        return inner * torch.sin(self.curved)


def grouped() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(4, 6, 3, padding=1, groups=2), nn.Tanh(), nn.Flatten(), nn.Linear(30, 3)
    )


def narrowing() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 9, bias=False), nn.Tanh(), nn.Linear(9, 3))


CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "stored": (Stored, (5, 4)),
    "reader": (Reader, (6,)),
    "half": (Half, (4,)),
    "grouped": (grouped, (4, 5)),
    "narrowing": (narrowing, (4,)),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("count", [1, 5])
def test_factors_meet_the_gradient_of_each_row(
    name: str, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, shape = CASES[name]
    with torch.random.fork_rng():
        torch.manual_seed(3)
        module = kind().double().eval()
        x = torch.randn(ROWS, *shape, dtype=torch.float64)
        x = torch.randint(0, 5, (ROWS, *shape)) if name == "reader" else x
        y = torch.randint(0, 3, (ROWS,))
    values = dict(module.named_parameters())

    def gradient(row: int) -> Tensor:
        output = functional_call(module, values, (x[row : row + 1],))
        loss = F.cross_entropy(output, y[row : row + 1])
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(values.values()))])

    problem = Problem(module, make_loss("cross_entropy"))
    factors = torch.randn(count, problem.size, dtype=torch.float64)
    expected = factors @ torch.stack([gradient(row) for row in range(ROWS)]).T
    rows = TensorRows(x, y)
    assert ByLayers.found(problem, rows) is not None
    for batch_size in (1, 3, "auto"):
        found = joined(up(problem, factors, rows, batch_size=batch_size))
        assert relative(found, expected) < 1e-12
    # However small the parts are that they are cut into.
    for bound in ("PRODUCTS_AT_ONCE", "GRADIENTS_AT_ONCE", "FEWEST_ROWS"):
        monkeypatch.setattr(by_layers, bound, 2)
    assert relative(joined(up(problem, factors, rows)), expected) < 1e-12


@pytest.mark.parametrize("name", ["perceptron", "convolutional", "tied", "only_the_head"])
def test_no_gradient_of_a_row_is_formed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = make(name)
    problem = Problem(case.module, make_loss(case.loss), case.parameters)
    factors = torch.randn(3, problem.size, dtype=problem.dtype)
    expected = factors @ Exact(case).gradients(range(case.test_count, len(case.targets))).T

    def never(*_: object) -> Tensor:
        raise AssertionError("a gradient of rows")

    monkeypatch.setattr(GradientBackends, "gradients", never)
    assert relative(joined(up(problem, factors, case.train)), expected) < 1e-12


def test_a_model_of_which_layers_explain_little_meets_rows_by_gradients() -> None:
    case = make("recurrent")
    problem = Problem(case.module, make_loss(case.loss))
    assert ByLayers.found(problem, case.train) is None
    factors = torch.randn(3, problem.size, dtype=problem.dtype)
    expected = factors @ Exact(case).gradients(range(case.test_count, len(case.targets))).T
    assert relative(joined(up(problem, factors, case.train)), expected) < 1e-12


class Attending(nn.Module):
    """Causal attention by torch's own function, with and without a mask that is added."""

    def __init__(self) -> None:
        super().__init__()
        self.project, self.merge, self.head = nn.Linear(4, 12), nn.Linear(4, 4), nn.Linear(4, 3)
        self.register_buffer("mask", torch.randn(7, 7, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (
            each.unflatten(-1, (2, 2)).transpose(1, 2) for each in self.project(x).chunk(3, -1)
        )
        attention = nn.functional.scaled_dot_product_attention
        mixed = attention(query, key, value, is_causal=True)
        mixed = mixed + attention(query, key, value, attn_mask=self.mask)
        return self.head(self.merge(mixed.transpose(1, 2).flatten(2)).mean(1))


def test_scores_by_a_kernel_without_second_derivatives_are_those_of_autograd() -> None:
    torch.manual_seed(3)
    module = Attending().double().eval()
    x, y = torch.randn(9, 7, 4, dtype=torch.float64), torch.arange(9) % 3
    problem = Problem(module, make_loss("cross_entropy"), dtype=torch.float64)
    expected = []
    with sdpa_kernel([SDPBackend.MATH]):
        for row, label in zip(x, y, strict=True):
            loss = nn.functional.cross_entropy(module(row[None]), label[None])
            found = torch.autograd.grad(loss, list(module.parameters()))
            expected.append(torch.cat([each.flatten() for each in found]))
    factors = torch.randn(4, problem.size, dtype=torch.float64)
    with torch.profiler.profile() as seen:
        scores = joined(up(problem, factors, TensorRows(x, y)))
    assert any("flash_attention" in each.key for each in seen.key_averages())
    assert (scores - factors @ torch.stack(expected).T).abs().max() < 1e-12
