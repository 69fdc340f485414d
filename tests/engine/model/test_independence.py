"""Rows that see each other are refused with the node in which they meet; rows that only lie together are not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from workers.engine import Batch, Problem, RowsMixed, check_problem, make_loss

pytestmark = pytest.mark.filterwarnings(  # torch's own, while it exports
    "ignore::FutureWarning",
    "ignore::DeprecationWarning",
    "ignore:The tensor attributes:UserWarning",
)

COUNT = 5


class Forward(nn.Module):
    """A few layers and a function of them and the inputs."""

    def __init__(self, function: Callable[..., Tensor], **layers: nn.Module) -> None:
        super().__init__()
        self.function = function
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.function(self, *inputs)


def exported(module: nn.Module, *inputs: Tensor) -> nn.Module:
    batch = {0: torch.export.Dim("batch")}
    program = torch.export.export(module.eval(), inputs, dynamic_shapes=((batch,) * len(inputs),))
    return program.module(check_guards=False)


def batch(*inputs: Tensor) -> Batch:
    return Batch(inputs, None, 0)


def check(module: nn.Module, *inputs: Tensor, graph: bool = True) -> None:
    torch.manual_seed(0)
    made = exported(module, *inputs) if graph else module.eval()
    outputs = module(*inputs)
    if outputs.ndim == 1:
        check_problem(Problem(made, make_loss("program")), batch(*inputs))
        return
    check_problem(Problem(made, make_loss("mse")), Batch(inputs, torch.zeros_like(outputs), 0))


def tokens(*shape: int) -> Tensor:
    return torch.randint(0, 7, shape, generator=torch.Generator().manual_seed(0))


def floats(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def embedded(width: int = 4) -> nn.Module:
    torch.manual_seed(0)
    return nn.Embedding(7, width)


def linear(inputs: int, outputs: int) -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(inputs, outputs)


def attention(batch_first: bool) -> nn.Module:
    torch.manual_seed(1)
    mixing = nn.MultiheadAttention(4, 2, batch_first=batch_first)

    def forward(m: Any, t: Tensor) -> Tensor:
        h = m.e(t)
        return m.o((h + m.t(h, h, h, need_weights=False)[0]).mean(1))

    return Forward(forward, e=embedded(), t=mixing, o=linear(4, 2))


def cox(m: Any, t: Tensor, event: Tensor) -> Tensor:
    r = m.l(m.e(t).mean(1)).squeeze(-1)
    return -(r - torch.logcumsumexp(r, 0)) * event


def contrastive(m: Any, a: Tensor, b: Tensor) -> Tensor:
    similar = F.normalize(m.l(a), dim=1) @ F.normalize(m.l(b), dim=1).T
    return -F.log_softmax(similar * 5, dim=1).diagonal()


MIXED: dict[str, tuple[nn.Module, tuple[Tensor, ...], str]] = {
    "attention": (attention(False), (tokens(COUNT, 3),), "module 't'"),
    "risk sets": (
        Forward(cox, e=embedded(), l=linear(4, 1)),
        (tokens(COUNT, 3), torch.tensor([1, 0, 1, 1, 0])),
        "logcumsumexp",
    ),
    "in-batch negatives": (
        Forward(contrastive, l=linear(4, 3)),
        (floats(COUNT, 4), floats(COUNT, 4).flip(0)),
        "log_softmax",
    ),
    "centring": (
        Forward(lambda m, x: m.l(x - x.mean(0)), l=linear(4, 2)),
        (floats(COUNT, 4),),
        "mean",
    ),
    "running mean": (
        Forward(
            lambda m, t: m.l(
                m.e(t).mean(1).cumsum(0) / torch.arange(1, t.shape[0] + 1)[:, None]
            ),
            e=embedded(),
            l=linear(4, 2),
        ),
        (tokens(COUNT, 3),),
        "cumsum",
    ),
    "daily returns": (
        Forward(lambda m, x: (m.l(x) - 0.5 * m.l(x).mean(0)) * 1e-6, l=linear(4, 2)),
        (floats(COUNT, 4),),
        "mean",
    ),
    "a little of the mean": (
        Forward(lambda m, x: m.l(x) + 1e-6 * m.l(x).mean(0), l=linear(4, 2)),
        (floats(COUNT, 4),),
        "mean",
    ),
    "order of the rows": (
        Forward(lambda m, x: m.l(x.sort(0).values), l=linear(4, 2)),
        (floats(COUNT, 4),),
        "sort",
    ),
    "largest of the rows": (
        Forward(lambda m, x: m.l(x) / x.abs().max(), l=linear(4, 2)),
        (floats(COUNT, 4),),
        "max",
    ),
    "flipped": (Forward(lambda m, x: m.l(x.flip(0)), l=linear(4, 2)), (floats(COUNT, 4),), "flip"),
    "rolled": (
        Forward(lambda m, x: m.l(x + x.roll(1, 0)), l=linear(4, 2)),
        (floats(COUNT, 4),),
        "roll",
    ),
    "place in the batch": (
        Forward(lambda m, x: m.l(x) * torch.arange(x.shape[0])[:, None], l=linear(4, 2)),
        (floats(COUNT, 4),),
        "",
    ),
    "size of the batch": (
        Forward(lambda m, x: m.l(x) / x.shape[0], l=linear(4, 2)),
        (floats(COUNT, 4),),
        "",
    ),
    "batch norm without running statistics": (
        Forward(
            lambda m, x: m.l(m.n(x)), n=nn.BatchNorm1d(4, track_running_stats=False), l=linear(4, 2)
        ),
        (floats(COUNT, 4),),
        "module 'n'",
    ),
    "a gift to the last row": (
        Forward(
            lambda m, x: m.l(x + x[:1] * (torch.arange(x.shape[0]) == x.shape[0] - 1)[:, None]),
            l=linear(4, 2),
        ),
        (floats(COUNT, 4),),
        "",
    ),
    "gradients alone": (
        Forward(lambda m, x: m.l(x) + (m.l(x).sum(0) - m.l(x).sum(0).detach()), l=linear(4, 2)),
        (floats(COUNT, 4),),
        "gradient",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(MIXED))
def test_rows_that_see_each_other_are_refused_with_the_place(name: str) -> None:
    module, rows, place = MIXED[name]
    with pytest.raises(RowsMixed, match="depends on the other rows") as caught:
        check(module, *rows)
    assert place in str(caught.value)


def test_the_way_out_of_attention_is_named() -> None:
    with pytest.raises(RowsMixed, match="batch_first=True") as caught:
        check(attention(False), tokens(COUNT, 3))
    assert caught.value.module == "t"
    assert caught.value.node


@pytest.mark.parametrize("batch_first", [False, True])
def test_a_module_without_a_graph_is_looked_into_by_its_submodules(batch_first: bool) -> None:
    module = attention(batch_first)
    if batch_first:
        check(module, tokens(COUNT, 3), graph=False)
        return
    with pytest.raises(RowsMixed, match="module 't'"):
        check(module, tokens(COUNT, 3), graph=False)


def _folded(m: Any, x: Tensor) -> Tensor:
    rows, positions, width = x.shape
    return m.l(x.reshape(rows * positions, width)).reshape(rows, positions, -1).mean(1)


def _ragged(m: Any, t: Tensor, length: Tensor) -> Tensor:
    mask = torch.arange(t.shape[1]) < length[:, None]
    h = torch.where(mask[..., None], m.e(t), torch.zeros(()))
    return m.l(h.sum(1) / length.clamp(min=1)[:, None])


def _padded(m: Any, t: Tensor) -> Tensor:
    scores = m.e(t) @ m.e(t).transpose(1, 2)
    scores = scores.masked_fill((t == 0)[:, None, :], float("-inf"))
    mixed = scores.softmax(-1) @ m.e(t)  # NaN where a row is padding alone
    return m.l(torch.where((t == 0).all(1)[:, None, None], torch.zeros(()), mixed).mean(1))


def _graph(m: Any, x: Tensor, edges: Tensor) -> Tensor:
    h = m.l(x)
    sent = h.gather(1, edges[:, 0, :, None].expand(-1, -1, h.shape[2]))
    target = edges[:, 1, :, None].expand(-1, -1, h.shape[2])
    return torch.zeros_like(h).scatter_add(1, target, sent).relu().mean(1)


INDEPENDENT: dict[str, tuple[nn.Module, tuple[Tensor, ...]]] = {
    "attention": (attention(True), (tokens(COUNT, 3),)),
    "attention over as many positions as rows": (attention(True), (tokens(COUNT, COUNT),)),
    "positions folded into the rows": (Forward(_folded, l=linear(4, 2)), (floats(COUNT, 3, 4),)),
    "a recurrent layer": (
        Forward(lambda m, x: m.l(m.r(x)[0][:, -1]), r=nn.GRU(4, 3, batch_first=True), l=linear(3, 2)),
        (floats(COUNT, 6, 4),),
    ),
    "transposed and back": (
        Forward(lambda m, x: m.l(x.transpose(0, 1)).tanh().transpose(0, 1)[:, 0], l=linear(4, 2)),
        (floats(COUNT, 3, 4),),
    ),
    "messages within a row": (
        Forward(_graph, l=linear(4, 3)),
        (floats(COUNT, 6, 4), torch.randint(0, 6, (COUNT, 2, 8), generator=torch.Generator().manual_seed(3))),
    ),
    "sums over tokens": (
        Forward(lambda m, t: torch.einsum("btw,bsw->bts", m.e(t), m.e(t)).logsumexp(2), e=embedded()),
        (tokens(COUNT, 4),),
    ),
    "ragged rows": (
        Forward(_ragged, e=embedded(), l=linear(4, 2)),
        (tokens(COUNT, 3), torch.tensor([3, 1, 2, 0, 3])),
    ),
    "a row of padding alone": (
        Forward(_padded, e=embedded(), l=linear(4, 2)),
        (torch.cat([tokens(COUNT - 1, 3), torch.zeros(1, 3, dtype=torch.int64)]),),
    ),
    "large numbers": (Forward(lambda m, x: m.l(x) * 1e6, l=linear(400, 2)), (floats(COUNT, 400),)),
    "small differences of large numbers": (
        Forward(lambda m, x: (m.l(x) + 1e4) / 1e4 - 1, l=linear(400, 2)),
        (floats(COUNT, 400),),
    ),
    "a softmax made safe by the largest of all": (
        Forward(lambda m, x: (m.l(x) - m.l(x).max()).softmax(1), l=linear(4, 3)),
        (floats(COUNT, 4),),
    ),
    "a picture": (
        Forward(
            lambda m, x: m.l(m.c(x).relu().mean((2, 3))), c=nn.Conv2d(3, 4, 3), l=linear(4, 2)
        ),
        (floats(COUNT, 3, 8, 8),),
    ),
    "one number, squeezed": (
        Forward(lambda m, x: m.l(x).squeeze(-1).square(), l=linear(4, 1)),
        (floats(COUNT, 4),),
    ),
}  # fmt: skip


@pytest.mark.parametrize("graph", [True, False], ids=["exported", "module"])
@pytest.mark.parametrize("name", sorted(INDEPENDENT))
def test_rows_that_only_lie_together_are_accepted(name: str, graph: bool) -> None:
    module, rows = INDEPENDENT[name]
    check(module, *rows, graph=graph)


@pytest.mark.parametrize("size", [1e-9, 1.0, 1e9])
def test_what_counts_as_mixing_goes_with_the_size_of_the_outputs(size: float) -> None:
    layer = linear(4, 2)
    check(Forward(lambda m, x: m.l(x) * size, l=layer), floats(COUNT, 4))
    with pytest.raises(RowsMixed):
        check(Forward(lambda m, x: (m.l(x) + 1e-4 * x.mean()) * size, l=layer), floats(COUNT, 4))


def test_float32_rounding_between_batch_sizes_is_no_mixing() -> None:
    class Cast(nn.Module):
        """Whose arithmetic stays in float32, whatever it is given."""

        def __init__(self) -> None:
            super().__init__()
            self.l = nn.Linear(2000, 50)
            self.o = nn.Linear(50, 2)

        def forward(self, x: Tensor) -> Tensor:
            h = F.linear(x.float(), self.l.weight.float())
            return self.o((h * 100).to(self.o.weight.dtype))

    torch.manual_seed(0)
    check(Cast(), floats(COUNT, 2000), graph=False)
