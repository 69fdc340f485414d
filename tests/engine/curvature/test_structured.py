"""K-FAC, EK-FAC, blocks and diagonals against their definitions written out by hand, in float64."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from service.jobs.validation.structures import least_at_once, likely_bytes
from tests.engine.curvature import kronecker_by_hand as by_hand
from tests.engine.exact import relative
from upweight.schema import ParameterSpec
from upweight.schema import curvature as schema
from workers.engine import BadParameter, Problem, TensorRows, make_loss, row_gradients
from workers.engine.curvature.structured import Options, Structured, blocks, layout, sums
from workers.engine.curvature.structured.blocks import outer_product
from workers.engine.curvature.structured.operator import fit_bytes, summed_together
from workers.engine.errors import OutOfMemory, SingularHessian
from workers.engine.inversion.direct import Direct
from workers.engine.operators import restored, stored

ROWS = 11
BY_HAND = {"kfac": by_hand.kfac, "ekfac": by_hand.ekfac}
factored = pytest.mark.parametrize("structure", ["kfac", "ekfac"])


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(4)


def real(*shape: int) -> Tensor:
    return torch.randn(shape, generator=seeded(), dtype=torch.float64)


def classes(count: int = 3, *shape: int) -> Tensor:
    return torch.randint(0, count, shape or (ROWS,), generator=seeded())


def made(module: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(2)
        return module().double().eval()


def mlp(bias: bool = True) -> nn.Module:
    return nn.Sequential(nn.Linear(5, 4, bias=bias), nn.Tanh(), nn.Linear(4, 3, bias=bias))


class Reader(nn.Module):
    """Embedding, a layer over tokens, a norm, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 4)
        self.inner = nn.Linear(4, 5)
        self.norm = nn.LayerNorm(5)
        self.head = nn.Linear(5, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = self.norm(torch.tanh(self.inner(self.embedding(tokens))))
        return self.head(hidden.mean(1))


def image_model() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(12, 3)
    )


def one_pixel_model() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.Tanh(),
        nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.Flatten(), nn.Linear(4, 3),
    )  # fmt: skip


MODELS: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
    "mlp": (mlp, real(ROWS, 5)),
    "mlp without biases": (lambda: mlp(bias=False), real(ROWS, 5)),
    "convolution": (image_model, real(ROWS, 2, 4, 4)),
    "reader": (Reader, torch.randint(0, 7, (ROWS, 6), generator=seeded())),
    # Of a window's nine places eight lie outside of an image of one pixel; and most inputs of a table are 0.
    "one pixel": (one_pixel_model, real(ROWS, 2, 1, 1)),
    "sparse": (mlp, real(ROWS, 5) * torch.tensor([0.0, 1.0, 0.0, 1.0, 0.0])),
}
every_model = pytest.mark.parametrize("name", MODELS)


def curvature(
    module: nn.Module,
    inputs: Tensor | tuple[Tensor, ...],
    targets: Tensor,
    structure: Any,
    moment: Any = "gradients",
    loss: str = "cross_entropy",
    **options: Any,
) -> Structured:
    problem = Problem(module, make_loss(loss))
    return Structured(problem, TensorRows(inputs, targets), moment, structure, Options(**options))


def entries(found: Structured, layer: str) -> Tensor:
    """Places in θ of a layer's matrix (out, in + 1), row-major."""
    places = {each.name: each for each in found.problem.layout}
    weight, bias = places[f"{layer}.weight"], places.get(f"{layer}.bias")
    numbers = torch.arange(weight.offset, weight.offset + weight.size).view(weight.shape[0], -1)
    if bias is not None:
        column = torch.arange(bias.offset, bias.offset + bias.size).unsqueeze(1)
        numbers = torch.cat([numbers, column], 1)
    return numbers.flatten()


def gradients(module: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    """(n, p), by autograd, a row at a time."""
    rows = []
    for x, y in zip(inputs, targets, strict=True):
        module.zero_grad()
        F.cross_entropy(module(x[None]), y[None]).backward()
        rows.append(torch.cat([each.grad.flatten() for each in module.parameters()]))
    return torch.stack(rows)


@factored
@every_model
def test_each_layers_block_is_the_definition(name: str, structure: str) -> None:
    make, inputs = MODELS[name]
    module, targets = made(make), classes()
    found = curvature(module, inputs, targets, structure, batch_size=4)
    dense = found.dense()
    for layer, own in module.named_modules():
        if not isinstance(own, nn.Linear | nn.Conv2d | nn.Embedding):
            continue
        rows = [
            by_hand.tokens_of(module, own, x[None], lambda f, y=y: F.cross_entropy(f, y[None]))
            for x, y in zip(inputs, targets, strict=True)
        ]
        place = entries(found, layer)
        assert relative(dense[place][:, place], BY_HAND[structure](rows)) < 1e-12
        outside = [each for each in range(len(dense)) if each not in set(place.tolist())]
        assert not dense[place][:, outside].any()


@factored
def test_a_norm_has_an_exact_block(structure: str) -> None:
    make, inputs = MODELS["reader"]
    module, targets = made(make), classes()
    found = curvature(module, inputs, targets, structure)
    rows, place = gradients(module, inputs, targets), entries(found, "norm").view(5, 2).T.flatten()
    expected = (rows[:, place].T @ rows[:, place]) / ROWS
    assert relative(found.dense()[place][:, place], expected) < 1e-12


@every_model
def test_layers_keeps_one_exact_block_a_layer(name: str) -> None:
    make, inputs = MODELS[name]
    module, targets = made(make), classes()
    found, rows = curvature(module, inputs, targets, "layers"), gradients(module, inputs, targets)
    whole = rows.T @ rows / ROWS
    owner = torch.tensor(
        [
            sorted({n.rpartition(".")[0] for n, _ in module.named_parameters()}).index(layer)
            for n, each in module.named_parameters()
            for layer in [n.rpartition(".")[0]] * each.numel()
        ]
    )
    expected = whole * (owner.unsqueeze(0) == owner.unsqueeze(1))
    assert relative(found.dense(), expected) < 1e-12


@every_model
def test_the_diagonal_is_the_mean_of_squares(name: str) -> None:
    make, inputs = MODELS[name]
    module, targets = made(make), classes()
    found = curvature(module, inputs, targets, "diagonal", batch_size=3)
    expected = torch.diag(gradients(module, inputs, targets).square().mean(0))
    assert relative(found.dense(), expected) < 1e-12


def test_the_identity_is_the_identity() -> None:
    found = curvature(made(mlp), real(ROWS, 5), classes(), "identity")
    assert torch.equal(found.dense(), torch.eye(found.shape[0], dtype=torch.float64))
    assert found.passes == 0


@pytest.mark.parametrize("structure", ["kfac", "ekfac", "layers", "diagonal"])
def test_the_size_of_a_batch_does_not_matter(structure: str) -> None:
    """A ragged last batch weighs what it has rows, and a single row is one row."""
    make, inputs = MODELS["reader"]
    module, targets = made(make), classes()
    whole = curvature(module, inputs, targets, structure, batch_size=ROWS).dense()
    for size in (1, 2, 4, 7):
        found = curvature(module, inputs, targets, structure, batch_size=size).dense()
        assert relative(found, whole) < 1e-12


@factored
def test_sums_over_parts_of_the_rows_add_up(structure: str) -> None:
    from workers.engine.curvature.structured.sums import add

    make, inputs = MODELS["reader"]
    module, targets = made(make), classes()
    whole = curvature(module, inputs, targets, structure)
    parts = [
        curvature(module, inputs[part], targets[part], structure)
        for part in (slice(0, 4), slice(4, 5), slice(5, ROWS))
    ]
    first: dict[str, Tensor] = {}
    for part in parts:
        add(first, part.covariances())
    bases = whole.bases(first)
    second: dict[str, Tensor] = {}
    for part in parts:
        add(second, part.squares(bases))
    assert relative(whole.made(first, bases, second, {}).dense(), whole.dense()) < 1e-12


class Tied(nn.Module):
    """Two layers with one weight and a bias each."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.second(torch.tanh(self.first(x)))))


class Shared(nn.Module):
    """One layer used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.head = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.inner(torch.tanh(self.inner(x)))))


@factored
def test_uses_of_a_shared_layer_are_summed_before_they_are_squared(structure: str) -> None:
    """Its tokens are those of all uses, in the covariances too."""
    module, inputs, targets = made(Shared), real(ROWS, 4), classes()
    found = curvature(module, inputs, targets, structure)
    rows = []
    for x, y in zip(inputs, targets, strict=True):
        uses = by_hand.tokens_of(
            module, module.inner, x[None], lambda f, y=y: F.cross_entropy(f, y[None])
        )
        rows.append(
            [by_hand.Tokens(torch.cat([u.a for u in uses]), torch.cat([u.g for u in uses]))]
        )
    place = entries(found, "inner")
    assert relative(found.dense()[place][:, place], BY_HAND[structure](rows)) < 1e-12


def test_tied_weights_with_biases_of_their_own_have_them_in_exact_blocks() -> None:
    module, inputs, targets = made(Tied), real(ROWS, 4), classes()
    found = curvature(module, inputs, targets, "ekfac").closed_form()
    kept = {block.layout.names: block.layout.covered_by for block in found.blocks}
    assert kept[("first.weight",)] == "kronecker"
    assert kept[("first.bias",)] == kept[("second.bias",)] == "exact"
    assert kept[("head.weight", "head.bias")] == "kronecker"


def _headed(layer: Callable[[], nn.Module], width: int) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(layer(), nn.Flatten(), nn.Linear(width, 3))


@pytest.mark.parametrize(
    ("make", "inputs"),
    [
        (_headed(lambda: nn.Conv2d(4, 6, 3, groups=2), 24), real(ROWS, 4, 4, 4)),
        (_headed(lambda: nn.Conv2d(3, 3, 2, groups=3, bias=False), 27), real(ROWS, 3, 4, 4)),
        (
            _headed(lambda: nn.Conv1d(4, 4, 3, groups=4, padding=1, dilation=2), 12),
            real(ROWS, 4, 5),
        ),
        (_headed(lambda: nn.Conv3d(2, 2, 2, padding="same"), 54), real(ROWS, 2, 3, 3, 3)),
        (_headed(lambda: nn.Conv2d(4, 6, 3, groups=2, padding=1), 6), real(ROWS, 4, 1, 1)),
    ],
)
def test_each_group_of_a_convolution_is_a_layer_of_its_own(
    make: Callable[[], nn.Module], inputs: Tensor
) -> None:
    """The same as a plain convolution a group, put side by side: nothing is averaged over groups."""
    module, targets = made(make), classes()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, of an even kernel with padding same
        found = curvature(module, inputs, targets, "ekfac")
        dense, rows = found.dense(), gradients(module, inputs, targets)
    layer = module[0]
    groups, per = layer.groups, layer.out_channels // layer.groups
    place = entries(found, "0").view(groups, per, -1)
    assert found.closed_form().blocks[0].layout.groups == groups
    for group in place:
        # The trace and what W makes of its own gradients are those of the exact block, in any basis.
        here = group.flatten()
        assert torch.isclose(dense[here, here].sum(), rows[:, here].square().mean(0).sum())
    if groups > 1:
        one, other = place[0].flatten(), place[1].flatten()
        assert not dense[one][:, other].any()
    split = nn.Sequential(*[_plain_group(layer, number) for number in range(groups)]).double()
    outputs = torch.cat([each(inputs.chunk(groups, 1)[i]) for i, each in enumerate(split)], 1)
    assert relative(outputs.detach(), layer(inputs).detach()) < 1e-12
    alone = _Groups(split, module[1:])
    own = curvature(alone, inputs, targets, "ekfac")
    for number, group in enumerate(place):
        there = entries(own, f"split.{number}")
        here = group.flatten()
        assert relative(dense[here][:, here], own.dense()[there][:, there]) < 1e-9


class _Groups(nn.Module):
    def __init__(self, split: nn.Sequential, rest: nn.Module) -> None:
        super().__init__()
        self.split, self.rest = split, rest
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        parts = x.chunk(len(self.split), 1)
        joined = torch.cat([own(each) for own, each in zip(self.split, parts, strict=True)], 1)
        return self.rest(joined)


def _plain_group(layer: Any, number: int) -> nn.Module:
    per, inside = layer.out_channels // layer.groups, layer.in_channels // layer.groups
    plain = type(layer)(
        inside, per, layer.kernel_size, layer.stride, layer.padding, layer.dilation, 1, layer.bias is not None
    )  # fmt: skip
    here = slice(number * per, (number + 1) * per)
    with torch.no_grad():
        plain.weight.copy_(layer.weight[here])
        if layer.bias is not None:
            plain.bias.copy_(layer.bias[here])
    return plain


class Transposed(nn.Module):
    """As Hugging Face's Conv1D: the weight is (in, out), and tokens of all rows are one axis."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(4, 5)), nn.Parameter(torch.randn(5))

    def forward(self, x: Tensor) -> Tensor:
        flat = torch.addmm(self.bias, x.view(-1, 4), self.weight)
        return flat.view(*x.shape[:-1], 5)


class Functional(nn.Module):
    """The same layer by F.linear with a weight that is (out, in)."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(5, 4)), nn.Parameter(torch.randn(5))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)


class Headed(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer, self.head = layer, nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.layer(x)).mean(1))


@factored
def test_a_layer_is_the_same_however_it_is_written(structure: str) -> None:
    plain = made(lambda: Headed(nn.Linear(4, 5)))
    functional, transposed = made(lambda: Headed(Functional())), made(lambda: Headed(Transposed()))
    functional.load_state_dict(plain.state_dict())
    state = plain.state_dict()
    transposed.load_state_dict({**state, "layer.weight": state["layer.weight"].T})
    inputs, targets = real(ROWS, 3, 4), classes()
    expected = curvature(plain, inputs, targets, structure).dense()
    found = curvature(functional, inputs, targets, structure)
    assert relative(found.dense(), expected) < 1e-12
    other = curvature(transposed, inputs, targets, structure)
    assert other.closed_form().blocks[0].layout.transposed
    # (in, out) instead of (out, in) in the first twenty entries.
    order = torch.arange(20).view(5, 4).T.flatten()
    order = torch.cat([order, torch.arange(20, len(expected))])
    assert relative(other.dense(), expected[order][:, order]) < 1e-12


class Penalised(nn.Module):
    """A weight that also works in a way that no layer explains."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.head = nn.Linear(4, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.inner(x))) * self.inner.weight.square().sum()


@factored
def test_what_no_rule_explains_has_its_exact_block_and_says_so(structure: str) -> None:
    module, inputs, targets = made(Penalised), real(ROWS, 4), classes()
    found = curvature(module, inputs, targets, structure, batch_size=4)
    rows = gradients(module, inputs, targets)[:, :20]
    first = found.closed_form().blocks[0]
    assert (first.layout.names, first.layout.covered_by) == (("inner.weight",), "exact") or (
        first.layout.names == ("inner.weight", "inner.bias")
    )
    assert "no rule" in first.layout.why
    assert relative(found.dense()[:20, :20], rows.T @ rows / ROWS) < 1e-10


class PartlyTwice(nn.Module):
    """A row of a layer's weight works beside it, in a way that no rule knows; its bias works in the layer alone."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.head = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.inner(x))) + (x * self.inner.weight[0]).sum(-1, True)


@pytest.mark.parametrize("structure", ["kfac", "ekfac", "layers", "diagonal"])
def test_a_bias_counts_whose_weight_no_rule_explains(structure: str) -> None:
    # One more output for one class, or the term would be the same for all of them.
    module = nn.Sequential(made(PartlyTwice), nn.Tanh(), made(lambda: nn.Linear(3, 3)))
    inputs, targets = real(ROWS, 4), classes()
    found = curvature(module, inputs, targets, structure, batch_size=4)
    rows = gradients(module, inputs, targets)
    places = {each.name: each for each in found.problem.layout}
    place = places["0.inner.bias"]
    own = slice(place.offset, place.offset + place.size)
    wanted = rows[:, own].square().mean(0)
    assert relative(found.dense().diagonal()[own], wanted) < 1e-10


class Keyed(nn.Module):
    """Attention whose key's bias has no gradient but rounding."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        scores = self.query(x) @ self.key(x).mT
        return self.head((scores.softmax(-1) @ x).mean(1))


def test_a_gradient_that_is_rounding_alone_does_not_spoil_its_layer() -> None:
    found = curvature(made(Keyed), real(ROWS, 3, 4), classes(), "ekfac").closed_form()
    assert [block.layout.covered_by for block in found.blocks] == ["kronecker"] * 3
    assert not any(block.layout.why for block in found.blocks)


@pytest.mark.parametrize("structure", ["kfac", "ekfac", "layers", "diagonal"])
def test_no_parameter_is_left_out(structure: str) -> None:
    for make, inputs in MODELS.values():
        found = curvature(made(make), inputs, classes(), structure).closed_form()
        covered = sorted(
            (offset, size)
            for block in found.blocks
            for offset, size in zip(block.layout.offsets, block.layout.sizes, strict=True)
        )
        ends = [0, *(offset + size for offset, size in covered)]
        assert [offset for offset, _ in covered] == ends[:-1]
        assert ends[-1] == found.size
        assert sum(found.described["structure"]["coverage"].values()) == pytest.approx(1.0)


@factored
def test_padding_is_no_token(structure: str) -> None:
    """A mask zeroes a and its 1, and what it hides is not counted."""

    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.head = nn.Linear(4, 5), nn.Linear(5, 3)

        def forward(self, x: Tensor, mask: Tensor) -> Tensor:
            hidden = torch.tanh(self.inner(x)) * mask.unsqueeze(-1)
            return self.head(hidden.sum(1))

    module, targets = made(Masked), classes()
    inputs, lengths = real(ROWS, 4, 4), torch.arange(ROWS) % 4 + 1
    mask = (torch.arange(4) < lengths.unsqueeze(1)).long()
    found = curvature(module, (inputs, mask), targets, structure, mask_input=1)
    rows = []
    for x, m, y in zip(inputs, mask, targets, strict=True):
        (tokens,) = _masked_tokens(module, x, m, y)
        rows.append([by_hand.Tokens(tokens.a[m.bool()], tokens.g[m.bool()])])
    place = entries(found, "inner")
    assert relative(found.dense()[place][:, place], BY_HAND[structure](rows)) < 1e-12
    other = curvature(module, (inputs, mask), targets, structure)
    assert relative(other.dense()[place][:, place], found.dense()[place][:, place]) > 1e-3


def _masked_tokens(module: nn.Module, x: Tensor, m: Tensor, y: Tensor) -> list[by_hand.Tokens]:
    class Given(nn.Module):
        def forward(self, given: Tensor) -> Tensor:
            found: Tensor = module(given, m[None])
            return found

    return by_hand.tokens_of(Given(), module.inner, x[None], lambda f: F.cross_entropy(f, y[None]))


@factored
def test_gauss_newton_takes_each_column_of_the_losss_root(structure: str) -> None:
    """A Hessian in the outputs is Σ r rᵀ; each r goes back through the model."""
    make, inputs = MODELS["reader"]
    module, targets = made(make), classes()
    found = curvature(module, inputs, targets, structure, moment="roots", batch_size=5)
    rows = []
    for x in inputs:
        p = module(x[None]).detach().softmax(1)[0]
        values, vectors = torch.linalg.eigh(torch.diag(p) - torch.outer(p, p))
        root = vectors * values.clamp(min=0).sqrt()
        rows.append(
            [
                by_hand.tokens_of(module, module.inner, x[None], lambda f, r=r: (f[0] * r).sum())[0]
                for r in root.T
            ]
        )
    place = entries(found, "inner")
    assert relative(found.dense()[place][:, place], BY_HAND[structure](rows)) < 1e-10


def test_layers_and_diagonal_of_gauss_newton_are_parts_of_it() -> None:
    module, inputs, targets = made(mlp), real(ROWS, 5), classes()
    names = dict(module.named_parameters())
    sizes = [each.numel() for each in names.values()]
    theta = torch.cat([each.detach().flatten() for each in names.values()])

    def outputs(theta: Tensor, x: Tensor) -> Tensor:
        pieces = theta.split(sizes)
        weights = {n: p.view(names[n].shape) for n, p in zip(names, pieces, strict=True)}
        return functional_call(module, weights, (x[None],))[0]

    whole = torch.zeros(len(theta), len(theta), dtype=torch.float64)
    for x in inputs:
        j = torch.autograd.functional.jacobian(lambda t, x=x: outputs(t, x), theta)
        p = outputs(theta, x).softmax(0)
        whole += j.T @ (torch.diag(p) - torch.outer(p, p)) @ j / ROWS
    diagonal = curvature(module, inputs, targets, "diagonal", moment="roots").dense()
    assert relative(diagonal, torch.diag(whole.diagonal())) < 1e-10
    layers = curvature(module, inputs, targets, "layers", moment="roots").dense()
    assert relative(layers[:24, :24], whole[:24, :24]) < 1e-10
    assert not layers[:24, 24:].any()


class OneNumber(nn.Module):
    """A row's output is a number, without an axis of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x).squeeze(-1)


@pytest.mark.parametrize("structure", ["kfac", "ekfac", "layers", "diagonal"])
def test_gauss_newton_of_one_number_a_row_is_that_of_its_gradients(structure: str) -> None:
    """With one token a layer and one column a row, EK-FAC, blocks and diagonal have the matrix's own traces."""
    module, inputs, targets = made(OneNumber), real(ROWS, 5), classes(2).double()
    found = curvature(
        module, inputs, targets, structure, moment="roots", loss="bce_with_logits"
    ).dense()
    rows = []
    for x in inputs:
        module.zero_grad()
        output = module(x[None])
        output.sum().backward()
        p = output.detach().sigmoid()
        root = (p * (1 - p)).sqrt()
        rows.append(
            torch.cat([(root * each.grad.flatten()) for each in module.parameters()])  # type: ignore[operator]
        )
    whole = torch.stack(rows).T @ torch.stack(rows) / ROWS
    for here in (slice(0, 24), slice(24, 29)):
        if structure == "layers":
            assert relative(found[here, here], whole[here, here]) < 1e-10
        elif structure == "diagonal":
            assert relative(found.diagonal()[here], whole.diagonal()[here]) < 1e-10
        elif structure == "ekfac":
            traces = found.diagonal()[here].sum(), whole.diagonal()[here].sum()
            assert relative(*traces) < 1e-10
    assert bool((found.diagonal() > 0).all())


class Autoencoder(nn.Module):
    """A matrix and its transpose, which is no square."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Linear(5, 4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(torch.tanh(self.encode(x)), self.encode.weight.T)


@pytest.mark.parametrize("structure", ["kfac", "ekfac", "layers", "diagonal"])
def test_a_weight_that_is_used_both_ways_has_its_exact_block_or_diagonal(structure: str) -> None:
    module, inputs, targets = made(Autoencoder), real(ROWS, 5), real(ROWS, 5).flip(0)
    found = curvature(module, inputs, targets, structure, loss="mse").dense()
    rows = []
    for x, y in zip(inputs, targets, strict=True):
        module.zero_grad()
        F.mse_loss(module(x[None]), y[None]).backward()
        rows.append(module.encode.weight.grad.flatten())  # type: ignore[union-attr, operator]
    expected = torch.stack(rows).T @ torch.stack(rows) / ROWS
    if structure == "diagonal":
        expected = torch.diag(expected.diagonal())
    assert relative(found, expected) < 1e-10


@pytest.mark.parametrize("structure", ["kfac", "ekfac", "layers", "diagonal", "identity"])
def test_the_inverse_is_that_of_the_dense_matrix(structure: str) -> None:
    for make, inputs in MODELS.values():
        found = curvature(made(make), inputs, classes(), structure)
        rhs, damping = real(3, found.shape[0]), 0.03
        solution = Direct().solve(found, damping, rhs)
        damped = found.dense() + damping * torch.eye(found.shape[0], dtype=torch.float64)
        assert relative(solution.x, torch.linalg.solve(damped, rhs.T).T) < 1e-10
        assert float(solution.residual_norms.max()) < 1e-12


def test_another_lambda_is_not_added_to_the_one_before() -> None:
    fit = curvature(made(mlp), real(ROWS, 5), classes(), "ekfac").closed_form()
    rhs = real(2, fit.size)
    once = fit.damped(0.1).apply(rhs)
    again = fit.damped(0.5).damped(0.1)
    again.apply(rhs)
    assert torch.equal(again.apply(rhs), once)
    assert not torch.equal(fit.damped(0.2).apply(rhs), once)


def test_each_block_may_have_a_lambda_of_its_own() -> None:
    fit = curvature(made(mlp), real(ROWS, 5), classes(), "ekfac").closed_form()
    own = [0.1 * each.mean_eigenvalue for each in fit.blocks]
    rhs = real(2, fit.size)
    damped = fit.dense() + torch.diag(
        torch.tensor([own[0]] * 24 + [own[1]] * 15, dtype=torch.float64)
    )
    assert relative(fit.damped(own).apply(rhs), torch.linalg.solve(damped, rhs.T).T) < 1e-10
    with pytest.raises(BadParameter, match="one λ"):
        fit.damped([0.1] * 3)


@pytest.mark.parametrize("structure", ["kfac", "ekfac", "layers", "diagonal"])
def test_several_lambdas_at_once_are_each_solved_as_the_dense_matrix_is(structure: str) -> None:
    for make, inputs in MODELS.values():
        module = made(make)
        found = curvature(module, inputs, classes(), structure)
        dampings, dense = [0.03, 2.0, 0.4], found.dense()
        # Right-hand sides that may be outer products, and some that are none; one is 0.
        rhs = gradients(module, inputs, classes())[:3]
        rhs = torch.cat([rhs, real(2, len(dense)), torch.zeros(1, len(dense))])
        for damping, each in zip(dampings, Direct().solve_each(found, dampings, rhs), strict=True):
            damped = dense + damping * torch.eye(len(dense), dtype=torch.float64)
            expected = torch.linalg.solve(damped, rhs.T).T
            assert relative(each.x, expected) < 1e-10
            assert float(each.residual_norms.max()) < 1e-12
            shares = ((expected[:5] @ dense).norm(dim=1) / rhs[:5].norm(dim=1)).mean()
            assert each.info["curvature_share"] == pytest.approx(float(shares), rel=1e-9)


def test_a_residual_is_told_where_eigenvectors_are_not_what_they_were() -> None:
    fit = curvature(made(mlp), real(ROWS, 5), classes(), "ekfac").closed_form()
    rhs = real(2, fit.size)
    first, *others = fit.blocks
    damaged = replace(first, left=first.left * 1.001)
    form = replace(fit, blocks=(damaged, *others)).damped(0.1)
    (found,) = form.solved_each([], rhs)
    applied = form.matmat(found.x) + 0.1 * found.x
    assert relative(found.x, fit.damped(0.1).apply(rhs)) > 1e-4
    assert float((found.residual_norms / (rhs - applied).norm(dim=1)).min()) > 0.5


def test_norms_of_a_tiny_gradients_solution_are_not_rounded_to_0() -> None:
    module = made(mlp).float()
    fit = curvature(module, real(ROWS, 5).float(), classes(), "ekfac").closed_form().damped(0.1)
    rhs = real(2, fit.size).float()
    (plain,), (tiny,) = fit.solved_each([], rhs), fit.solved_each([], rhs * 2.0**-80)
    assert relative(tiny.image_norms * 2.0**80, plain.image_norms) < 1e-5
    assert float(tiny.residual_norms.min()) > 0.0


def test_mean_eigenvalues_are_of_all_rows() -> None:
    found = curvature(made(mlp), real(ROWS, 5), classes(), "ekfac", batch_size=3)
    fit, dense = found.closed_form(), found.dense()
    assert fit.blocks[0].mean_eigenvalue == pytest.approx(float(dense[:24, :24].trace()) / 24)
    assert fit.mean_eigenvalue == pytest.approx(float(dense.trace()) / 39)


def test_kfac_and_ekfac_differ_in_scale_by_the_tokens() -> None:
    """So that one λ cannot serve both: over T tokens a row's gradient is a sum of T terms."""
    make, inputs = MODELS["reader"]
    module, targets = made(make), classes()
    traces = {}
    for structure in ("kfac", "ekfac"):
        found = curvature(module, inputs, targets, structure)
        place = entries(found, "inner")
        traces[structure] = float(found.dense()[place, place].sum())
    assert traces["ekfac"] > 3 * traces["kfac"]


def test_a_singular_curvature_without_lambda_is_refused_and_a_tiny_lambda_is_not() -> None:
    """After ReLU inputs may be rank-deficient: λ = 1e-8 divides by it, and no more than that."""

    class Dead(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.head = nn.Linear(5, 4), nn.Linear(4, 3)
            with torch.no_grad():
                self.first.bias[0] = -100.0

        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.relu(self.first(x)))

    found = curvature(made(Dead), real(ROWS, 5), classes(), "ekfac")
    fit = found.closed_form()
    with pytest.raises(SingularHessian, match="hessian_regularization"):
        fit.damped(0.0)
    rhs = real(2, fit.size)
    x = fit.damped(1e-8).apply(rhs)
    damped = found.dense() + 1e-8 * torch.eye(fit.size, dtype=torch.float64)
    assert relative(x @ damped, rhs) < 1e-6
    assert bool(torch.isfinite(x).all())


@pytest.mark.parametrize("structure", ["kfac", "ekfac", "layers", "diagonal", "identity"])
def test_a_fit_that_is_stored_comes_back_as_it_was(structure: str) -> None:
    fit = curvature(made(mlp), real(ROWS, 5), classes(), structure).closed_form()
    again = restored({name: each.clone() for name, each in stored(fit.damped(3.0)).items()})
    rhs = real(2, fit.size)
    assert torch.equal(again.damped(0.1).apply(rhs), fit.damped(0.1).apply(rhs))
    assert again.damped(0.1).described == fit.damped(0.1).described  # type: ignore[attr-defined]


@pytest.mark.parametrize("structure", ["kfac", "ekfac", "layers", "diagonal"])
def test_in_float32_it_is_right_to_1e_5(structure: str) -> None:
    for make, inputs in MODELS.values():
        module = made(make)
        exact = curvature(module, inputs, classes(), structure)
        module = made(make).float()
        single = inputs.float() if inputs.is_floating_point() else inputs
        found = curvature(module, single, classes(), structure)
        assert relative(found.dense(), exact.dense()) < 1e-5
        rhs = real(3, exact.shape[0])
        damping = 0.1 * exact.closed_form().mean_eigenvalue
        expected = exact.closed_form().damped(damping).apply(rhs)
        assert relative(found.closed_form().damped(damping).apply(rhs.float()), expected) < 1e-4


def test_a_model_in_half_precision_has_factors_in_float32() -> None:
    module = made(mlp)
    half = made(mlp).bfloat16()
    exact = curvature(module.to(torch.bfloat16).double(), real(ROWS, 5), classes(), "ekfac")
    problem = Problem(half, make_loss("cross_entropy"), dtype=torch.float32)
    rows = TensorRows(real(ROWS, 5).float(), classes())
    found = Structured(problem, rows, "gradients", "ekfac")
    assert found.dense().dtype == torch.float32
    assert relative(found.dense(), exact.dense()) < 1e-5


@pytest.mark.parametrize("structure", ["kfac", "ekfac", "layers", "diagonal", "identity"])
@pytest.mark.parametrize("model", ["mlp", "image", "reader"])
def test_what_shapes_alone_tell_of_its_memory_is_no_more_than_that(
    structure: str, model: str
) -> None:
    modules: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
        "mlp": (mlp, real(ROWS, 5)),
        "image": (image_model, real(ROWS, 2, 4, 4)),
        "reader": (Reader, classes(7, ROWS, 4)),
    }
    module, inputs = modules[model]
    found = curvature(made(module), inputs, classes(), structure)
    blocks = found.collector.layout.blocks
    specs = [
        ParameterSpec(name=each.name, shape=list(each.shape), offset=each.offset)
        for each in found.problem.layout
    ]
    told, of_one, _ = least_at_once(specs, structure, found.dtype.itemsize)
    needed = fit_bytes(blocks, found.dtype.itemsize)
    assert 0 < of_one <= told <= needed
    if structure in ("layers", "diagonal", "identity"):  # nothing to guess
        assert told == needed


@pytest.mark.parametrize("structure", ["kfac", "ekfac", "layers", "diagonal"])
@pytest.mark.parametrize("model", ["mlp", "plain"])
def test_what_a_fit_is_likely_to_take_is_what_the_engine_counts(structure: str, model: str) -> None:
    plain = nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1, bias=False), nn.Tanh(), nn.Conv2d(3, 4, 2), nn.Tanh(), nn.Flatten(),
        nn.Linear(36, 3, bias=False),
    )  # fmt: skip
    modules: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
        "mlp": (mlp, real(ROWS, 5)),
        "plain": (lambda: plain, real(ROWS, 2, 4, 4)),
    }
    module, inputs = modules[model]
    found = curvature(made(module), inputs, classes(), structure)
    specs = [
        ParameterSpec(name=each.name, shape=list(each.shape), offset=each.offset)
        for each in found.problem.layout
    ]
    after, fitting = likely_bytes(specs, structure, found.dtype.itemsize)
    assert after <= fitting
    blocks = found.collector.layout.blocks
    needed = fit_bytes(blocks, found.dtype.itemsize)
    if structure in ("kfac", "ekfac"):
        assert fitting == needed
    else:  # sums of all blocks are counted, of which the engine holds one block's beside the others
        assert needed <= fitting <= 3 * needed


def test_limits_of_blocks_are_those_that_the_contract_tells() -> None:
    assert (layout.LARGE_BLOCK, layout.LARGEST_SIDE) == (
        schema.LARGE_BLOCK,
        schema.LARGEST_SIDE,
    )


def test_more_than_the_budget_is_refused_in_bytes() -> None:
    found = curvature(made(mlp), real(ROWS, 5), classes(), "ekfac", budget_bytes=1000)
    with pytest.raises(OutOfMemory, match=r"[\d,]+ bytes, where 1,000"):
        found.closed_form()


@pytest.mark.parametrize(("structure", "second"), [("kfac", 0), ("ekfac", 1), ("layers", 0)])
@pytest.mark.parametrize("name", ["mlp", "reader"])
def test_where_the_sums_of_all_layers_do_not_fit_each_takes_a_pass(
    name: str, structure: str, second: int
) -> None:
    make, inputs = MODELS[name]
    module = made(make)
    whole = curvature(module, inputs, classes(), structure, batch_size=4)
    form = whole.closed_form()
    least = fit_bytes([block.layout for block in form.blocks], 8)
    options = {"batch_size": 4, "budget_bytes": least}
    found = curvature(module, inputs, classes(), structure, **options)
    assert torch.equal(found.dense(), form.dense())
    assert whole.passes == 1 + second < found.passes
    options["budget_bytes"] -= 1
    with pytest.raises(OutOfMemory, match=f"{least:,} bytes"):
        curvature(module, inputs, classes(), structure, **options).closed_form()
    with pytest.raises(OutOfMemory, match=r"leave out blocks\.hessian_rows"):
        curvature(module, inputs, classes(), structure, budget_bytes=least).partial_sums()


def test_blocks_that_need_no_sums_in_float64_take_no_pass_of_their_own() -> None:
    """Diagonals beside Kronecker factors, however little memory there is."""
    form = curvature(made(mlp), real(ROWS, 5), classes(), "kfac").closed_form()
    matrix = form.blocks[0].layout
    plain = replace(matrix, form="diagonal")
    assert summed_together([matrix, plain, plain, matrix, plain], 8, 0) == [[0, 1, 2], [3, 4]]


@pytest.mark.parametrize("structure", ["kfac", "ekfac", "layers", "diagonal"])
def test_a_model_without_a_graph_is_covered_as_well(structure: str) -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = mlp()

        def forward(self, x: Tensor) -> Tensor:
            found: Tensor = self.inner(x)
            return found if bool((found.detach() > -1e9).all()) else found * 2

    module, inputs, targets = made(Branching), real(ROWS, 5), classes()
    plain = made(mlp)
    expected = curvature(plain, inputs, targets, structure)
    plain.load_state_dict(module.inner.state_dict())
    expected = curvature(plain, inputs, targets, structure)
    found = curvature(module, inputs, targets, structure)
    assert relative(found.dense(), expected.dense()) < 1e-12


@pytest.mark.parametrize("bias", [True, False])
def test_an_outer_product_is_solved_by_its_vectors(bias: bool) -> None:
    problem = Problem(made(lambda: mlp(bias)), make_loss("cross_entropy"))
    fitted = Structured(problem, TensorRows(real(ROWS, 5), classes()), "gradients", "ekfac")
    spectral = fitted.closed_form().damped(0.1)
    rhs = torch.cat([block for _, block in row_gradients(problem, fitted.rows)])
    block = spectral.blocks[0]
    assert outer_product(block.layout.gathered(rhs)) is not None
    # A sum of them is none, and neither is one that is off by more than rounding.
    assert outer_product(block.layout.gathered(rhs[:1] + rhs[1:2])) is None
    nearly = rhs.clone()
    nearly[:, 0] *= 1 + 1e-12
    assert outer_product(block.layout.gathered(nearly)) is None
    dense = spectral.dense() + 0.1 * torch.eye(problem.size, dtype=torch.float64)
    for each in (rhs, nearly, torch.zeros_like(rhs), torch.cat([rhs[:1], rhs[:1] + rhs[1:2]])):
        before = each.clone()
        expected = torch.linalg.solve(dense, each.T).T
        assert relative(spectral.apply(each), expected) < 1e-10 or not bool(each.any())
        assert torch.equal(each, before)
    assert not bool(spectral.apply(torch.zeros_like(rhs)).any())


@factored
def test_inputs_that_are_0_in_every_row_are_not_among_the_eigenvectors(structure: str) -> None:
    module, inputs, targets = made(one_pixel_model), real(ROWS, 2, 1, 1), classes()
    plain = curvature(module, inputs, targets, structure)
    blocks = plain.closed_form().blocks
    assert [block.turned_columns for block in blocks] == [3, 4, 5]
    assert [block.layout.columns for block in blocks] == [19, 36, 5]
    # Right-hand sides need not be 0 there, and an L2 term is not.
    problem = plain.problem
    factors = torch.arange(problem.size, dtype=torch.float64) / 100.0
    penalised = Structured(
        problem.with_penalty(factors), plain.rows, "gradients", structure, Options()
    )
    for found in (plain, penalised):
        form = found.closed_form()
        again = restored({name: each.clone() for name, each in stored(form).items()})
        rhs = real(3, form.size)
        damped = found.dense() + 0.1 * torch.eye(form.size, dtype=torch.float64)
        for each in (form, again):
            x = each.damped(0.1).apply(rhs)
            assert relative(x, torch.linalg.solve(damped, rhs.T).T) < 1e-10
    places = {each.name: each for each in problem.layout}["2.weight"]
    absent = [each for each in range(places.size) if each % 9 != 4]
    here = torch.tensor(absent) + places.offset
    assert not plain.dense()[here].any()
    assert torch.equal(penalised.dense()[here], factors.diag()[here])


@pytest.mark.parametrize("aligned", [2, 3, 5])
def test_zeros_that_make_matrices_lie_well_change_nothing(
    aligned: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for make, inputs in MODELS.values():
        module = made(make)
        expected = curvature(module, inputs, classes(), "ekfac").dense()
        with monkeypatch.context() as patched:
            patched.setattr(blocks, "ALIGNED_FROM", 1)
            patched.setattr(blocks, "ALIGNED", aligned)
            patched.setattr(sums, "ALIGNED", aligned)
            found = curvature(module, inputs, classes(), "ekfac")
            assert relative(found.dense(), expected) < 1e-12
            rhs = gradients(module, inputs, classes())[:3]
            rhs = torch.cat([rhs, real(2, len(expected))])
            damped = expected + 0.03 * torch.eye(len(expected), dtype=torch.float64)
            solution = Direct().solve(found, 0.03, rhs)
            assert relative(solution.x, torch.linalg.solve(damped, rhs.T).T) < 1e-10
            assert float(solution.residual_norms.max()) < 1e-12


def test_a_symmetric_product_in_blocks_is_the_whole_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sums, "SPLIT_SIDE", 1)
    for side in (1, 7, 40, 50):
        a = real(2, 9, side)
        assert relative(sums.gram(a), a.mT @ a) < 1e-14
