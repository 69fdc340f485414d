"""Random projections of gradients, against whole gradients by autograd times the Kronecker product, in float64."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from tests.engine.models import Encoder, Recurrent, TiedAutoencoder
from workers.engine import (
    BadParameter,
    Problem,
    RandomEmbedding,
    TensorRows,
    Weighted,
    make_loss,
    per_example_gradients,
)
from workers.engine.curvature.structured import Options, Structured
from workers.engine.curvature.structured.blocks import Spectral
from workers.engine.curvature.structured.layout import Layout
from workers.engine.errors import NotFinite, OutOfMemory, SingularHessian
from workers.engine.projection.layers import ProjectedLayer, Projection, shares, sides

ROWS, DIMENSION, DAMPING = 9, 6, 0.02
TOLERANCE = {"rtol": 1e-11, "atol": 1e-13}  # float64, of sums over some ten numbers
WIDTH, WORDS = 4, 11


def drawn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def numbers(most: int, *shape: int) -> Tensor:
    return torch.randint(0, most, shape, generator=torch.Generator().manual_seed(5))


class Images(nn.Module):
    """Convolutions whose windows overlap, one in groups and one for each channel, and norms."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 4, 3, padding=1, stride=2)
        self.grouped = nn.Conv2d(4, 6, 2, groups=2)
        self.norm = nn.GroupNorm(2, 6)
        self.each = nn.Conv2d(6, 6, 2, groups=6, bias=False)
        self.batch = nn.BatchNorm2d(6)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.grouped(torch.tanh(self.first(x))))
        return self.head(self.batch(self.each(x)).mean((2, 3)))


class Texts(nn.Module):
    """Tokens with padding, places that are a parameter, and a head that is the table."""

    def __init__(self, tied: bool = False) -> None:
        super().__init__()
        self.table = nn.Embedding(WORDS, WIDTH, padding_idx=None if tied else 0)
        self.places = nn.Parameter(torch.randn(5, WIDTH))
        self.inner = nn.Linear(WIDTH, 7)
        self.norm = nn.LayerNorm(7)
        self.out = nn.Linear(7, WIDTH, bias=False)
        self.head = None if tied else nn.Linear(WIDTH, WORDS)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.table(tokens) + self.places
        x = self.out(self.norm(torch.tanh(self.inner(x)))).mean(1)
        return x @ self.table.weight.mT if self.head is None else self.head(x)


class Twice(nn.Module):
    """A layer that a row meets two times, and one that is stored by its inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 5)
        self.turned = nn.Parameter(torch.randn(5, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(torch.tanh(self.layer(x))) @ self.turned


MODELS: dict[str, tuple[Callable[[], nn.Module], Tensor, str]] = {
    "linear": (
        lambda: nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3)),
        drawn(ROWS, 5),
        "cross_entropy",
    ),
    "images": (Images, drawn(ROWS, 2, 6, 6), "cross_entropy"),
    "texts": (Texts, numbers(WORDS, ROWS, 5), "cross_entropy"),
    "tied texts": (lambda: Texts(tied=True), numbers(WORDS, ROWS, 5), "cross_entropy"),
    "tied layers": (TiedAutoencoder, drawn(ROWS, 4), "mse"),
    "attention": (Encoder, drawn(ROWS, 3, 4), "cross_entropy"),
    "met twice": (Twice, drawn(ROWS, 5), "cross_entropy"),
    "recurrent": (Recurrent, drawn(ROWS, 4, 2), "mse"),
}
every_model = pytest.mark.parametrize("name", MODELS)


def subject(name: str) -> tuple[Problem, TensorRows]:
    make, inputs, loss = MODELS[name]
    with torch.random.fork_rng():
        torch.manual_seed(2)
        module = make().double().eval()
    with torch.no_grad():
        outputs = module(inputs)
    targets = numbers(outputs.shape[1], ROWS) if loss == "cross_entropy" else drawn(*outputs.shape)
    return Problem(module, make_loss(loss)), TensorRows(inputs, targets)


def projection_of(
    problem: Problem, rows: TensorRows, dimension: int = DIMENSION, seed: int = 1
) -> Projection:
    return Projection.drawn(Layout.of_matrices(problem, rows), dimension, seed, problem.theta)


def form_of(
    problem: Problem, rows: TensorRows, structure: Any = "ekfac", damping: float = DAMPING
) -> Spectral:
    found = Structured(problem, rows, "gradients", structure, Options()).closed_form()
    return found.damped(damping)


def embedding_of(
    problem: Problem, rows: TensorRows, dimension: int = DIMENSION, structure: Any = "ekfac"
) -> RandomEmbedding:
    projection = projection_of(problem, rows, dimension)
    return RandomEmbedding.of(projection, form_of(problem, rows, structure))


def named_gradients(problem: Problem, rows: TensorRows) -> list[dict[str, Tensor]]:
    """Of each row's loss, parameter by parameter, by autograd alone."""
    found, module, loss = [], problem.module, problem.loss
    parameters = {
        name: each.detach().clone().requires_grad_() for name, each in module.named_parameters()
    }
    for batch in rows.batches(1):
        twice = batch.at_least_two()
        total = loss(functional_call(module, parameters, twice.inputs), twice.targets)[0]
        gradients = torch.autograd.grad(total, list(parameters.values()))
        found.append(dict(zip(parameters, gradients, strict=True)))
    return found


def kronecker(layer: ProjectedLayer) -> Tensor:
    """(rows · columns, k_out · k_in)."""
    layout = layer.layout
    left = torch.eye(layout.groups * layout.rows) if layer.left is None else layer.left
    right = torch.eye(layout.columns) if layer.right is None else layer.right
    product = left.double()[:, None, :, None] * right.double()[None, :, None, :]
    return product.reshape(len(left) * len(right), -1)


def matrix(layer: ProjectedLayer, gradients: dict[str, Tensor]) -> Tensor:
    """A row's gradient as the matrix that is projected, its bias in the last column."""
    weight, *bias = [gradients[name] for name in layer.layout.names]
    if weight.ndim < 2:
        return weight.reshape(1, -1)
    found = weight.mT if layer.layout.transposed else weight.flatten(1)
    return torch.cat([found, *(each[:, None] for each in bias)], 1)


@every_model
def test_a_row_is_its_whole_gradient_times_the_kronecker_product(name: str) -> None:
    problem, rows = subject(name)
    projection = projection_of(problem, rows)
    gradients = named_gradients(problem, rows)
    wanted = torch.stack(
        [
            torch.cat(
                [matrix(layer, each).flatten() @ kronecker(layer) for layer in projection.layers]
            )
            for each in gradients
        ]
    )
    batch = next(iter(rows.batches(ROWS)))
    by_gradients = torch.cat(projection.of_gradients(per_example_gradients(problem, batch)), 1)
    torch.testing.assert_close(by_gradients, wanted, **TOLERANCE)
    torch.testing.assert_close(_raw(problem, rows, projection), wanted, **TOLERANCE)
    assert wanted.abs().amax(0).gt(0).float().mean() > 0.9


def _raw(problem: Problem, rows: TensorRows, projection: Projection, **options: Any) -> Tensor:
    """The projections as rows are passed over, before they are whitened."""
    plain = RandomEmbedding(
        projection,
        tuple(torch.eye(each.numbers).double() for each in projection.layers),
        torch.ones(projection.width),
    )
    return torch.cat([block for _, block in plain.of_rows(problem, rows, **options)])


@every_model
def test_no_layer_has_more_numbers_than_the_dimension(name: str) -> None:
    problem, rows = subject(name)
    projection = projection_of(problem, rows)
    modules: dict[str, int] = {}
    covered = 0
    for layer in projection.layers:
        modules[layer.layout.layer] = modules.get(layer.layout.layer, 0) + layer.numbers
        covered += layer.layout.size
    assert max(modules.values()) <= DIMENSION
    assert covered == problem.size


def test_whose_gradients_are_formed_is_told() -> None:
    problem, rows = subject("texts")
    found = {
        each.layout.names[0]: each.layout.why
        for each in projection_of(problem, rows).layers
        if each.formed
    }
    assert set(found) == {"places", "norm.weight", "norm.bias"}
    assert set(found.values()) == {"it is no matrix in all its uses"}
    problem, rows = subject("recurrent")
    formed = [
        each
        for each in embedding_of(problem, rows).described["layers"]
        if "gradient_formed" in each
    ]
    assert {each["gradient_formed"] for each in formed} == {"no rule covers how it is used"}
    assert {each["layer"] for each in formed} == {"lstm"}


@pytest.mark.parametrize("size", [1, 2, 4])
def test_rows_do_not_depend_on_the_batch(size: int) -> None:
    problem, rows = subject("texts")
    projection = projection_of(problem, rows)
    whole = _raw(problem, rows, projection)
    torch.testing.assert_close(_raw(problem, rows, projection, batch_size=size), whole, **TOLERANCE)


def test_weights_of_rows_scale_them() -> None:
    problem, rows = subject("linear")
    weights = torch.arange(1.0, ROWS + 1).double()
    (batch,) = rows.batches(ROWS)
    assert isinstance(batch.targets, Tensor)
    weighted = problem.with_loss(Weighted(problem.loss))
    projection = projection_of(problem, rows)
    found = _raw(weighted, TensorRows(batch.inputs, (batch.targets, weights)), projection)
    torch.testing.assert_close(
        found, _raw(problem, rows, projection) * weights[:, None], **TOLERANCE
    )


@pytest.mark.parametrize("structure", ["ekfac", "kfac", "layers", "diagonal", "identity"])
@every_model
def test_products_are_influences_at_the_projected_curvature(name: str, structure: str) -> None:
    """gᵀ P (Pᵀ C P + λI)⁻¹ Pᵀ h, layer by layer, with C the matrix of the curvature that is kept."""
    problem, rows = subject(name)
    held_to_the_projected_curvature(problem, rows, structure)


@pytest.mark.parametrize("structure", ["ekfac", "layers", "diagonal"])
def test_an_l2_term_is_a_part_of_the_projected_curvature(structure: str) -> None:
    problem, rows = subject("linear")
    penalty = torch.linspace(0.1, 0.5, problem.size)
    held_to_the_projected_curvature(problem.with_penalty(penalty), rows, structure)


def test_inputs_that_are_always_0_are_projected() -> None:
    """Their eigenvectors are left out of what EK-FAC keeps, which is in another order then."""
    problem, rows = subject("linear")
    (batch,) = rows.batches(ROWS)
    inputs = batch.inputs[0] * torch.tensor([0.0, 1.0, 0.0, 1.0, 0.0])
    sparse = TensorRows(inputs, batch.targets)
    assert form_of(problem, sparse).blocks[0].order is not None
    held_to_the_projected_curvature(problem, sparse, "ekfac")


def held_to_the_projected_curvature(problem: Problem, rows: TensorRows, structure: Any) -> None:
    embedding = embedding_of(problem, rows, structure=structure)
    whole = form_of(problem, rows, structure).dense()
    found = torch.cat([block for _, block in embedding.of_rows(problem, rows)])
    (batch,) = rows.batches(ROWS)
    gradients = per_example_gradients(problem, batch)
    wanted = torch.zeros(ROWS, ROWS).double()
    for layer in embedding.projection.layers:
        matrices = layer.of_gradients(torch.eye(problem.size).double())  # P, a row a parameter
        damped = matrices.mT @ whole @ matrices + DAMPING * torch.eye(layer.numbers).double()
        small = gradients @ matrices
        wanted += small @ torch.linalg.solve(damped, small.mT)
    torch.testing.assert_close(found @ found.mT, wanted, rtol=1e-8, atol=1e-9)


def test_where_nothing_is_cut_influences_are_exact() -> None:
    problem, rows = subject("linear")
    embedding = embedding_of(problem, rows, dimension=100, structure="layers")
    assert embedding.width == problem.size
    found = torch.cat([block for _, block in embedding.of_rows(problem, rows)])
    layers = Structured(problem, rows, "gradients", "layers", Options())
    (batch,) = rows.batches(ROWS)
    gradients = per_example_gradients(problem, batch)
    wanted = layers.closed_form().damped(DAMPING).apply(gradients) @ gradients.mT
    torch.testing.assert_close(found @ found.mT, wanted, rtol=1e-9, atol=1e-9)


def test_inner_products_are_kept_in_the_mean_over_draws() -> None:
    problem, rows = subject("linear")
    layout = Layout.of_matrices(problem, rows)
    (batch,) = rows.batches(ROWS)
    gradients = per_example_gradients(problem, batch)
    found = []
    for seed in range(400):
        projection = Projection.drawn(layout, DIMENSION, seed, problem.theta)
        own = torch.cat(projection.of_gradients(gradients), 1)
        found.append(own @ own.mT)
    each = torch.stack(found)
    error = (each.mean(0) - gradients @ gradients.mT).abs()
    assert bool((error < 5 * each.std(0) / 400**0.5).all())


def test_what_is_stored_gives_the_same_numbers() -> None:
    problem, rows = subject("texts")
    embedding = embedding_of(problem, rows)
    again = RandomEmbedding.from_tensors(embedding.tensors())
    for one, other in zip(
        embedding.of_rows(problem, rows), again.of_rows(problem, rows), strict=True
    ):
        assert torch.equal(one[1], other[1])
    assert again.described == embedding.described
    matrices = sum(each.nbytes for each in embedding.projection.tensors().values())
    assert embedding.nbytes > matrices + sum(each.nbytes for each in embedding.whitening)
    assert torch.equal(again.leading(3), embedding.leading(3))


def test_the_seed_decides_the_draws() -> None:
    problem, rows = subject("linear")
    one, same, other = (
        _raw(problem, rows, projection_of(problem, rows, seed=each)) for each in (1, 1, 2)
    )
    assert torch.equal(one, same)
    assert not torch.allclose(one, other)


@pytest.mark.parametrize(
    ("rows", "columns", "count", "wanted"),
    [
        (64, 64, 256, (16, 16)),
        (10, 65, 512, (10, 51)),
        (65, 10, 512, (51, 10)),
        (3, 4, 12, (3, 4)),
        (1, 900, 512, (1, 512)),
        (50_000, 768, 512, (22, 23)),
        (8, 8, 1, (1, 1)),
    ],
)
def test_sides_fill_what_they_may(rows: int, columns: int, count: int, wanted: Any) -> None:
    assert sides(rows, columns, count) == wanted


def test_what_a_small_block_leaves_goes_to_the_others_of_its_module() -> None:
    problem, rows = subject("texts")
    blocks = [each for each in Layout.of_matrices(problem, rows).blocks if each.layer == "norm"]
    assert [each.size for each in blocks] == [7, 7]
    assert shares(blocks, 100) == [7, 7]
    assert shares(blocks, 9) == [4, 5]
    with pytest.raises(BadParameter, match="layer norm has so many"):
        shares(blocks, 1)


def test_more_memory_than_there_is_is_refused_in_bytes() -> None:
    problem, rows = subject("linear")
    with pytest.raises(OutOfMemory, match="projected curvature of 2,840 bytes, where 100 may"):
        RandomEmbedding.of(projection_of(problem, rows), form_of(problem, rows), budget_bytes=100)


def test_without_lambda_a_singular_curvature_is_refused() -> None:
    problem, rows = subject("linear")
    regular = form_of(problem, rows, "layers", 1.0)
    projection = projection_of(problem, rows, dimension=100)
    with pytest.raises(SingularHessian):
        RandomEmbedding.of(projection, replace(regular, dampings=(0.0,) * len(regular.blocks)))


def test_a_row_that_is_not_finite_is_named() -> None:
    problem, rows = subject("linear")
    (batch,) = rows.batches(ROWS)
    inputs = batch.inputs[0].clone()
    inputs[4, 1] = torch.inf
    embedding = embedding_of(problem, rows)
    with pytest.raises(NotFinite, match="row 4"):
        list(embedding.of_rows(problem, TensorRows(inputs, batch.targets)))
