"""Structures of a curvature whose training objective has an L2 term: against definitions written out by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.engine.curvature import kronecker_by_hand as by_hand
from tests.engine.exact import relative
from workers.engine import Over, Problem, TensorRows, make_curvature, make_loss
from workers.engine.curvature.structured.blocks import Spectral

ROWS, FACTOR, OTHER = 11, 0.3, 1.7
CLOSE = 1e-12
GENERATOR = torch.Generator().manual_seed(4)
X = torch.randn(ROWS, 5, generator=GENERATOR, dtype=torch.float64)
Y = torch.randint(0, 3, (ROWS,), generator=GENERATOR)
STRUCTURES = ["kfac", "ekfac", "layers", "diagonal"]


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(2)
        return nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)).double().eval()


NET = network()
SIZES = [each.numel() for each in NET.parameters()]


def factors(*of_parameters: float) -> Tensor:
    """(p,) of one for each of the four parameters."""
    pairs = zip(of_parameters, SIZES, strict=True)
    return torch.cat([torch.full((size,), each) for each, size in pairs]).double()


def closed(
    penalty: Tensor | None, structure: str, kind: str = "empirical_fisher", dtype: Any = None
) -> Spectral:
    problem = Problem(NET, make_loss("cross_entropy"), dtype=dtype).with_penalty(penalty)
    over = Over(problem, TensorRows(X, Y), batch_size=4)
    found = make_curvature(over, kind, structure).closed_form()
    assert isinstance(found, Spectral)
    return found


def said(form: Spectral) -> str:
    return str(form.described["structure"]["l2"])


@pytest.mark.parametrize("kind", ["empirical_fisher", "gauss_newton", "fisher"])
@pytest.mark.parametrize("structure", STRUCTURES)
def test_one_factor_a_layer_is_added_exactly(structure: str, kind: str) -> None:
    """Some layers may have another one, or none."""
    penalty = factors(FACTOR, FACTOR, 0.0, 0.0)
    found = closed(penalty, structure, kind)
    assert relative(found.dense(), closed(None, structure, kind).dense() + penalty.diag()) < CLOSE
    assert said(found) == "exact"


@pytest.mark.parametrize("structure", ["layers", "diagonal"])
@pytest.mark.parametrize("kind", ["empirical_fisher", "hessian"])
def test_weights_alone_have_it_exactly_in_dense_and_diagonal_blocks(
    structure: str, kind: str
) -> None:
    penalty = factors(FACTOR, 0.0, OTHER, 0.0)
    found = closed(penalty, structure, kind)
    assert relative(found.dense(), closed(None, structure, kind).dense() + penalty.diag()) < CLOSE
    assert said(found) == "exact"


@pytest.mark.parametrize("structure", ["kfac", "ekfac"])
def test_weights_alone_have_it_along_the_eigenvectors_of_kronecker_factors(structure: str) -> None:
    found = closed(factors(FACTOR, 0.0, OTHER, OTHER), structure)
    layer = NET[0]  # type: ignore[index]
    rows = [
        by_hand.tokens_of(NET, layer, x[None], lambda f, y=y: F.cross_entropy(f, y[None]))
        for x, y in zip(X, Y, strict=True)
    ]
    a, s = by_hand.factors(rows)
    basis = torch.kron(torch.linalg.eigh(s)[1], torch.linalg.eigh(a)[1])
    term = torch.cat([torch.full((4, 5), FACTOR), torch.zeros(4, 1)], 1).double().flatten()
    own = getattr(by_hand, structure)(rows) + basis @ (basis.square().T @ term).diag() @ basis.T
    place = torch.cat([torch.arange(20).view(4, 5), torch.arange(20, 24).view(4, 1)], 1).flatten()
    assert relative(found.dense()[place][:, place], own) < CLOSE
    assert said(found) == "along the eigenvectors alone in 0; exact elsewhere"
    # The trace of the term is kept, and so is the mean eigenvalue.
    more = factors(FACTOR, 0.0, OTHER, OTHER).mean()
    assert found.mean_eigenvalue == pytest.approx(
        closed(None, structure).mean_eigenvalue + float(more)
    )


@pytest.mark.parametrize("structure", STRUCTURES)
def test_sums_over_parts_of_the_rows_have_the_term_once(structure: str) -> None:
    problem = Problem(NET, make_loss("cross_entropy")).with_penalty(factors(FACTOR, 0.0, 0.0, 2.0))
    rows = TensorRows(X, Y)

    def over(part: TensorRows) -> Any:
        return make_curvature(Over(problem, part, whole=rows), "empirical_fisher", structure)

    parts = [over(TensorRows(X[:6], Y[:6])), over(TensorRows(X[6:], Y[6:]))]
    first, second = (each.partial_sums() for each in parts)
    total = {name: each + second[name] for name, each in first.items()}
    if structure == "ekfac":
        rotation = over(rows).rotation(total)
        squares = [each.second_sums(rotation) for each in parts]
        total = {**rotation, **{name: each + squares[1][name] for name, each in squares[0].items()}}
    found = over(rows).of_sums(total).closed_form()
    assert relative(found.dense(), over(rows).closed_form().dense()) < CLOSE


def test_the_identity_has_no_term_and_says_nothing() -> None:
    found = closed(factors(FACTOR, FACTOR, FACTOR, FACTOR), "identity")
    assert torch.equal(found.dense(), torch.eye(len(factors(0, 0, 0, 0)), dtype=torch.float64))
    assert "l2" not in found.described["structure"]


@pytest.mark.parametrize("structure", STRUCTURES)
def test_in_float64_it_is_the_same_of_a_model_in_float32(structure: str) -> None:
    penalty = factors(FACTOR, 0.0, OTHER, OTHER)
    problem = Problem(NET, make_loss("cross_entropy"), dtype=torch.float32).with_penalty(penalty)
    over = Over(problem, TensorRows(X, Y), batch_size=4)
    double = make_curvature(over, "empirical_fisher", structure).in_double()
    assert double is not None
    assert relative(double.dense(), closed(penalty, structure).dense()) < 1e-6


def test_with_the_term_a_space_of_vectors_keeps_to_the_same_budget() -> None:
    problem = Problem(NET, make_loss("cross_entropy")).with_penalty(factors(1.0, 0.0, 1.0, 0.0))
    over = Over(problem, TensorRows(X, Y), budget_bytes=1 << 18)
    assert make_curvature(over, "gauss_newton").space_bytes == 1 << 18
