"""Structured curvatures through the service, against their definitions written out by hand in float64."""

from __future__ import annotations

from typing import Any

import httpx2
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.engine.curvature import kronecker_by_hand as by_hand
from tests.journeys.problems import refused
from tests.journeys.test_numbers import distance
from tests.methods import METHODS
from upweight import Client, errors

ROWS, TEST, NAME, DAMPING = 60, 4, "structured", 0.03
STRUCTURES = ["layers", "kfac", "ekfac", "diagonal", "identity"]
FACTORED = {"kfac": by_hand.kfac, "ekfac": by_hand.ekfac}
every_structure = pytest.mark.parametrize("structure", STRUCTURES)


@pytest.fixture(scope="module")
def net(online: Client) -> nn.Module:
    """A small network, registered with its rows; in float64 afterwards."""
    torch.manual_seed(6)
    net = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)).eval()
    online.models.register(NAME, net, example=rows()[0][:2].float(), loss="cross_entropy")
    online.datasets.register(NAME, x=rows()[0].float(), y=rows()[1])
    return net.double()


def rows() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(6)
    x = torch.randn(ROWS, 5, generator=generator).double()
    return x, torch.randint(0, 3, (ROWS,), generator=generator)


def gradients(net: nn.Module) -> Tensor:
    """(n, p)."""
    found = []
    for x, y in zip(*rows(), strict=True):
        net.zero_grad()
        F.cross_entropy(net(x[None]), y[None]).backward()
        found.append(torch.cat([each.grad.flatten() for each in net.parameters()]))
    return torch.stack(found)


def curvature(net: Any, structure: str, kind: str = "empirical_fisher") -> Tensor:
    """C, (p, p)."""
    if structure == "identity":
        return torch.eye(39, dtype=torch.float64)
    result = torch.zeros(39, 39, dtype=torch.float64)
    whole = gradients(net)
    for layer, offset, size in ((net[0], 0, 24), (net[2], 24, 15)):
        here = torch.arange(offset, offset + size)
        if structure in FACTORED:
            columns = [_columns(net, layer, x, y, kind) for x, y in zip(*rows(), strict=True)]
            block = FACTORED[structure](columns)
            width = layer.in_features
            # The bias is the last column; θ has it after all weights.
            order = [i * (width + 1) + j for i in range(layer.out_features) for j in range(width)]
            order += [i * (width + 1) + width for i in range(layer.out_features)]
            result[offset : offset + size, offset : offset + size] = block[order][:, order]
        else:
            block = whole[:, here].T @ whole[:, here] / ROWS
            if structure == "diagonal":
                block = torch.diag(block.diagonal())
            result[offset : offset + size, offset : offset + size] = block
    return result


def _columns(
    net: nn.Module, layer: nn.Module, x: Tensor, y: Tensor, kind: str
) -> list[by_hand.Tokens]:
    if kind == "empirical_fisher":
        return by_hand.tokens_of(net, layer, x[None], lambda f: F.cross_entropy(f, y[None]))
    p = net(x[None]).detach().softmax(1)[0]
    values, vectors = torch.linalg.eigh(torch.diag(p) - torch.outer(p, p))
    roots = (vectors * values.clamp(min=0).sqrt()).T
    return [
        by_hand.tokens_of(net, layer, x[None], lambda f, r=r: (f[0] * r).sum())[0] for r in roots
    ]


def solutions(net: nn.Module, structure: str, kind: str = "empirical_fisher") -> Tensor:
    """(C + λI)⁻¹ ∇L of all rows, (n, p)."""
    damped = curvature(net, structure, kind) + DAMPING * torch.eye(39, dtype=torch.float64)
    return torch.linalg.solve(damped, gradients(net).T).T


def asked(structure: str, kind: str = "empirical_fisher", **more: Any) -> dict[str, Any]:
    return {
        "hessian_regularization": DAMPING,
        "curvature": {"kind": kind, "structure": structure},
        "precision": "float64",
        **more,
    }


@every_structure
def test_influences_are_those_of_the_definition(
    online: Client, net: nn.Module, structure: str
) -> None:
    result = online.compute_influences(NAME, NAME, NAME, test_rows=f"0:{TEST}", **asked(structure))
    exact = solutions(net, structure)[:TEST] @ gradients(net).T
    assert distance(result.numpy(), exact) < 1e-8
    told = result.info["structure"]
    assert sum(told["coverage"].values()) == pytest.approx(1.0)
    assert [each["layer"] for each in told["layers"]] == ["0", "2"]
    assert result.verdict.solved.level == "good"


@pytest.mark.parametrize("structure", ["kfac", "ekfac"])
def test_gauss_newton_has_factors_too(online: Client, net: nn.Module, structure: str) -> None:
    result = online.compute_influences(
        NAME, NAME, NAME, test_rows=f"0:{TEST}", **asked(structure, "gauss_newton")
    )
    exact = solutions(net, structure, "gauss_newton")[:TEST] @ gradients(net).T
    assert distance(result.numpy(), exact) < 1e-8


@every_structure
def test_factors_self_influences_and_solutions_are_too(
    online: Client, net: nn.Module, structure: str
) -> None:
    exact, own = solutions(net, structure), gradients(net)
    factors = online.compute_influence_factors(NAME, NAME, NAME, **asked(structure))
    assert distance(factors.x.numpy(), exact) < 1e-8
    itself = online.self_influences(NAME, NAME, **asked(structure))
    assert distance(itself.numpy(), (exact * own).sum(1)) < 1e-8
    x = online.solve_hvp("direct", NAME, NAME, own[:3].numpy(), **asked(structure)).x
    assert distance(x.numpy(), exact[:3]) < 1e-8


@pytest.mark.parametrize("structure", ["ekfac", "layers"])
def test_perturbing_is_too(online: Client, net: nn.Module, structure: str) -> None:
    result = online.compute_influences(
        NAME, NAME, NAME, test_rows=f"0:{TEST}", influence_type="perturbation", **asked(structure)
    )
    factors, found = solutions(net, structure)[:TEST], []
    for x, y in zip(*rows(), strict=True):
        given = x.clone().requires_grad_()
        loss = F.cross_entropy(net(given[None]), y[None])
        row = torch.autograd.grad(loss, list(net.parameters()), create_graph=True)
        along = factors @ torch.cat([each.flatten() for each in row])
        found.append(
            torch.stack([torch.autograd.grad(s, given, retain_graph=True)[0] for s in along])
        )
    assert distance(result.numpy(), torch.stack(found, 1)) < 1e-8


@pytest.mark.parametrize("method", ["cg", "arnoldi", "nystroem"])
def test_other_methods_come_to_the_same(online: Client, net: nn.Module, method: str) -> None:
    """C is multiplied with in closed form, and their residuals are true ones."""
    exact = solutions(net, "ekfac")[:TEST] @ gradients(net).T
    parameters = METHODS[method].full(39, True)
    found = online.compute_influences(
        NAME, NAME, NAME, test_rows=f"0:{TEST}", inversion_method=method, **asked("ekfac"), **parameters
    )  # fmt: skip
    assert distance(found.numpy(), exact) < 1e-7


def test_a_structure_in_place_of_a_method_is_direct_on_the_fisher_matrix(
    online: Client, net: nn.Module
) -> None:
    short = online.compute_influences(
        NAME, NAME, NAME, test_rows=f"0:{TEST}", inversion_method="ekfac", hessian_regularization=DAMPING, seed=3
    )  # fmt: skip
    request = online.jobs.get(short.job).request
    assert (request.curvature.kind, request.curvature.structure) == ("fisher", "ekfac")
    assert request.inversion.method == "direct"
    assert short.info["structure"]["seed"] == 3
    other = online.compute_influences(
        NAME, NAME, NAME, test_rows=f"0:{TEST}", inversion_method="ekfac", hessian_regularization=DAMPING, seed=4
    )  # fmt: skip
    assert 1e-3 < distance(other.numpy(), short.numpy()) < 0.8
    own = online.compute_influences(
        NAME, NAME, NAME, test_rows=f"0:{TEST}", inversion_method="kfac", curvature="empirical_fisher",
        hessian_regularization=DAMPING, precision="float64",
    )  # fmt: skip
    exact = solutions(net, "kfac")[:TEST] @ gradients(net).T
    assert distance(own.numpy(), exact) < 1e-8


@pytest.mark.parametrize("structure", ["layers", "kfac", "ekfac", "diagonal"])
@pytest.mark.parametrize("kind", ["empirical_fisher", "fisher"])
def test_partial_sums_of_blocks_of_rows_give_the_same_fit(
    online: Client, net: nn.Module, structure: str, kind: str
) -> None:
    cut = {"spread": True, "hessian_rows": 17, "train_rows": 20}
    found = [
        online.compute_influences(
            NAME, NAME, NAME, test_rows=f"0:{TEST}", blocks=blocks, reuse=False, **asked(structure, kind)
        ).numpy()
        for blocks in (cut, {**cut, "spread": False}, {})
    ]  # fmt: skip
    assert np.array_equal(found[0], found[1])
    assert distance(found[0], found[2]) < 1e-9


@pytest.mark.parametrize("structure", ["layers", "diagonal"])
def test_of_a_hessian_blocks_are_cut_out(online: Client, net: nn.Module, structure: str) -> None:
    x, y = rows()
    names = dict(net.named_parameters())
    theta = torch.cat([each.detach().flatten() for each in names.values()])

    def loss(theta: Tensor) -> Tensor:
        pieces = theta.split([each.numel() for each in names.values()])
        weights = {n: p.view(names[n].shape) for n, p in zip(names, pieces, strict=True)}
        return F.cross_entropy(torch.func.functional_call(net, weights, (x,)), y)

    whole = torch.autograd.functional.hessian(loss, theta)
    kept = torch.zeros(39, 39, dtype=torch.float64)
    if structure == "diagonal":
        kept = torch.diag(whole.diagonal())
    else:
        kept[:24, :24], kept[24:, 24:] = whole[:24, :24], whole[24:, 24:]
    damped = kept + 1.0 * torch.eye(39, dtype=torch.float64)
    exact = torch.linalg.solve(damped, gradients(net).T).T[:TEST] @ gradients(net).T
    found = online.compute_influences(
        NAME, NAME, NAME, test_rows=f"0:{TEST}",
        **(asked(structure, "hessian") | {"hessian_regularization": 1.0}),
    )  # fmt: skip
    assert distance(found.numpy(), exact) < 1e-8


def test_kronecker_factors_of_a_hessian_are_refused_with_the_reason(
    http: httpx2.Client, net: nn.Module
) -> None:
    answer = http.post(
        "/v1/jobs",
        json={
            "kind": "factors",
            "model": NAME,
            "train": {"dataset": NAME},
            "test": {"dataset": NAME},
            "inversion": {"method": "direct"},
            "hessian_regularization": 0.1,
            "curvature": {"structure": "ekfac"},
        },
    )
    words = refused(answer, 422, "invalid-request", "/curvature")
    assert "second moments" in words
    assert "'empirical_fisher'" in words


def test_a_singular_curvature_without_lambda_names_one_that_does(
    online: Client, net: nn.Module
) -> None:
    """The largest eigenvalue is told apart from none at all; the λ named works."""
    with pytest.raises(errors.UpweightError, match="hessian_regularization") as caught:
        online.compute_influences(
            NAME, NAME, NAME, test_rows="0:2",
            **(asked("layers") | {"hessian_regularization": 0.0}),
        )  # fmt: skip
    assert "singular" in str(caught.value)


@pytest.mark.parametrize("kind", ["gauss_newton", "hessian"])
@pytest.mark.parametrize(
    "preconditioner", ["ekfac", {"structure": "kfac"}, {"structure": "diagonal"}]
)
def test_a_structure_preconditions_cg(
    online: Client, net: nn.Module, kind: str, preconditioner: Any
) -> None:
    """Fitted once: another λ of the same job finds the fit."""
    for damping in (1.0, 0.5):
        found = [
            online.compute_influences(
                NAME, NAME, NAME, test_rows=f"0:{TEST}", inversion_method=method, curvature=kind,
                hessian_regularization=damping, precision="float64", **parameters,
            )
            for method, parameters in (
                ("cg", {"rtol": 1e-10, "preconditioner": preconditioner}),
                ("direct", {}),
            )
        ]  # fmt: skip
        assert distance(found[0].numpy(), found[1].numpy()) < 1e-8
        name = preconditioner if isinstance(preconditioner, str) else preconditioner["structure"]
        assert found[0].info["preconditioner"] == name


def test_several_lambdas_and_one_for_each_block_are_solved_from_one_fit(
    online: Client, net: nn.Module
) -> None:
    several = online.compute_influences(
        NAME, NAME, NAME, test_rows=f"0:{TEST}", **(asked("ekfac") | {"hessian_regularization": [0.3, DAMPING]})
    )  # fmt: skip
    exact = solutions(net, "ekfac")[:TEST] @ gradients(net).T
    assert distance(several.at(damping=DAMPING).numpy(), exact) < 1e-8
    whole = curvature(net, "ekfac")
    means = [float(whole[at, at].diagonal().mean()) for at in (slice(0, 24), slice(24, 39))]
    own = torch.tensor([means[0]] * 24 + [means[1]] * 15, dtype=torch.float64)
    exact = torch.linalg.solve(whole + torch.diag(0.1 * own), gradients(net).T).T[:TEST]
    found = online.compute_influences(
        NAME, NAME, NAME, test_rows=f"0:{TEST}",
        **(asked("ekfac") | {"hessian_regularization": {"relative": 0.1}}),
    )  # fmt: skip
    assert distance(found.numpy(), exact @ gradients(net).T) < 1e-8
