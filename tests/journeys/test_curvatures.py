"""A job of each kind of curvature, from the SDK to the stored numbers, against the formula with that matrix."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import Any

import httpx2
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.curvatures import CURVATURES
from tests.engine.exact import Exact
from tests.engine.models import Case
from tests.journeys.formulas import Formula
from tests.journeys.problems import refused
from tests.journeys.subjects import Subject
from tests.journeys.test_numbers import distance
from tests.methods import METHODS
from upweight import Client, errors
from upweight.schema import Curvature
from workers.engine import Over, Problem, TensorRows, make_loss

KINDS = [kind for kind in CURVATURES if kind != "hessian"]
SEED, DAMPING = 11, 0.02
every_kind = pytest.mark.parametrize("kind", KINDS)
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own


class WithMatrix(Formula):
    """The formula with another matrix in the place of the Hessian."""

    matrix: Tensor

    @cached_property
    def damped(self) -> Tensor:
        return self.matrix + self.damping * torch.eye(len(self.matrix), dtype=torch.float64)


@pytest.fixture(scope="module")
def bent(online: Client) -> Subject:
    """A network that is neither linear nor convex, in which H and the Gauss-Newton matrix are far apart."""
    generator = torch.Generator().manual_seed(5)
    with torch.random.fork_rng():
        torch.manual_seed(6)
        module = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    x = torch.randn(60, 4, generator=generator, dtype=torch.float64)
    y = (x[:, 0] > 0).long() + (x[:, 1] > 0).long()
    subject = Subject(
        "bent", module, "cross_entropy", lambda outputs, labels: F.cross_entropy(outputs, labels),
        x[:50], y[:50], x[50:], y[50:], damping=DAMPING, exact={},
    )  # fmt: skip
    subject.register(online)
    return subject


def formula(subject: Subject, kind: str, seed: int = SEED) -> Formula:
    """By plain torch; labels that are drawn are the engine's."""
    row, rows = CURVATURES[kind], TensorRows(subject.x_train, subject.y_train)
    case = Case(
        subject.module, (subject.x_train,), subject.y_train, subject.loss, F.cross_entropy,
        test_count=0,
    )  # fmt: skip
    problem = Problem(subject.module, make_loss(subject.loss))
    labels = Over(problem, rows, seed=seed).drawn.labels if row.facts.draws_labels else None
    found = WithMatrix(subject.module, subject.mean_loss, subject.x_train, subject.y_train, DAMPING)
    object.__setattr__(found, "matrix", row.matrix(Exact(case), labels))
    return found


def keywords(kind: str, method: str = "direct", **values: Any) -> dict[str, Any]:
    return {
        "curvature": kind, "inversion_method": method, "hessian_regularization": DAMPING,
        "seed": SEED, **values,
    }  # fmt: skip


@every_kind
@pytest.mark.parametrize("method", ["direct", "cg"])
def test_both_types_of_influence_are_those_of_the_formula(
    online: Client, bent: Subject, kind: str, method: str
) -> None:
    exact, given = formula(bent, kind), METHODS[method].full(bent.size, True)
    factors = exact.factors(bent.x_test, bent.y_test)
    up = online.compute_influences(*bent.names, **keywords(kind, method, **given))
    assert distance(up.numpy(), exact.up(factors, bent.x_train, bent.y_train)) < 1e-8
    moved = online.compute_influences(
        *bent.names,
        influence_type="perturbation",
        test_rows="0:2",
        train_rows="0:5",
        **keywords(kind, method, **given),
    )
    expected = exact.perturbation(factors[:2], bent.x_train[:5], bent.y_train[:5])
    assert distance(moved.numpy(), expected) < 1e-8
    assert up.info["curvature"] == kind
    assert up.info["curvature_structure"] == "full"
    assert up.info.summary.get("label_seed") == (SEED if kind == "fisher" else None)


@every_kind
def test_factors_own_right_hand_sides_and_self_influences(
    online: Client, bent: Subject, kind: str
) -> None:
    exact, given = formula(bent, kind), keywords(kind)
    factors = exact.factors(bent.x_test, bent.y_test)
    kept = online.compute_influence_factors(*bent.names, **given)
    assert distance(kept.x.numpy(), factors) < 1e-8
    b = np.random.default_rng(0).normal(size=(2, bent.size))
    method = given.pop("inversion_method")
    own = online.solve_hvp(method, bent.name, bent.train, b, **given)
    assert distance(own.x.numpy(), np.linalg.solve(exact.damped.numpy(), b.T).T) < 1e-8
    selves = online.self_influences(bent.name, bent.train, train_rows="0:6", **keywords(kind))
    gradients = exact.gradients(bent.x_train[:6], bent.y_train[:6])
    expected = (torch.linalg.solve(exact.damped, gradients.T) * gradients.T).sum(0)
    assert distance(selves.numpy(), expected) < 1e-8


def test_another_kind_or_seed_takes_no_fit_of_an_earlier_one(online: Client, bent: Subject) -> None:
    """All on one warm worker, which keeps what `direct` has found out."""
    asked: list[tuple[Any, int]] = [
        ("hessian", SEED),
        ("gauss_newton", SEED),
        ("fisher", SEED),
        ("fisher", SEED + 1),
        ("empirical_fisher", SEED),
        ("fisher", SEED),
    ]
    found = [
        online.compute_influences(
            *bent.names, **{**keywords(kind), "hessian_regularization": 0.5, "seed": seed}
        ).numpy()
        for kind, seed in asked
    ]
    assert np.array_equal(found[2], found[5])
    for first in range(5):
        for second in range(first):
            assert distance(found[first], found[second]) > 1e-3


@every_kind
def test_damping_may_be_a_part_of_its_mean_eigenvalue(
    online: Client, bent: Subject, kind: str
) -> None:
    exact = replace(formula(bent, kind))
    matrix = formula(bent, kind).damped - DAMPING * torch.eye(bent.size, dtype=torch.float64)
    damping = 0.1 * float(matrix.diagonal().mean())
    object.__setattr__(exact, "matrix", matrix)
    object.__setattr__(exact, "damping", damping)
    given = {**keywords(kind), "hessian_regularization": {"relative": 0.1}}
    result = online.compute_influence_factors(*bent.names, **given)
    assert distance(result.x.numpy(), exact.factors(bent.x_test, bent.y_test)) < 1e-6


def test_factors_of_another_curvature_are_refused(online: Client, bent: Subject) -> None:
    earlier = online.compute_influence_factors(*bent.names, **keywords("gauss_newton"))
    taken = online.compute_influences(*bent.names, factors=earlier)
    record = online.jobs.get(taken.job.id)
    assert record.request.curvature == Curvature(kind="gauss_newton")
    with pytest.raises(errors.InvalidRequest, match="with curvature Gauss-Newton, not Hessian"):
        online.compute_influences(*bent.names, factors=earlier, curvature="hessian")


@pytest.fixture(scope="module")
def losses(online: Client) -> dict[str, str]:
    """A model of each loss that some kind makes no sense for, on rows of its own."""

    class Program(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 3)

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return F.cross_entropy(self.layer(x), y, reduction="none")

    x, y = torch.randn(8, 4), torch.arange(8) % 3
    online.datasets.register("kinds-classes", x=x, y=y)
    online.datasets.register("kinds-values", x=x, y=torch.randn(8, 1))
    online.models.register("kinds-program", Program(), example=(x[:2], y[:2]), loss="program")
    log = nn.Sequential(nn.Linear(4, 3), nn.LogSoftmax(1))
    online.models.register("kinds-nll", log, example=x[:2], loss="nll")
    online.models.register("kinds-huber", nn.Linear(4, 1), example=x[:2], loss="huber")
    online.models.register("kinds-gaussian", nn.Linear(4, 2), example=x[:2], loss="gaussian_nll")
    return {"program": "classes", "nll": "classes", "huber": "values", "gaussian": "values"}


@pytest.mark.parametrize(
    ("kind", "loss", "words"),
    [
        ("gauss_newton", "program", "may not be convex.*'empirical_fisher'"),
        ("gauss_newton", "nll", "matrix is 0.*'fisher'"),
        ("gauss_newton", "gaussian", "not convex in mean and variance.*'fisher'"),
        ("fisher", "program", "'empirical_fisher', which has the data's"),
        ("fisher", "huber", "no likelihood.*'gauss_newton'"),
    ],
)
def test_a_kind_that_makes_no_sense_is_refused_and_its_way_out_works(
    online: Client, losses: dict[str, str], kind: str, loss: str, words: str
) -> None:
    data = f"kinds-{losses[loss]}"
    given = {"hessian_regularization": 1.0, "inversion_method": "direct"}
    with pytest.raises(errors.InvalidRequest, match=words) as told:
        online.compute_influences(f"kinds-{loss}", data, data, curvature=kind, **given)
    assert told.value.errors[0].pointer == "/curvature/kind"
    for way_out in ("empirical_fisher", "fisher", "gauss_newton"):
        if f"'{way_out}'" in told.value.errors[0].detail.replace(f"'{kind}'", ""):
            found = online.compute_influences(
                f"kinds-{loss}", data, data, curvature=way_out, **given
            )
            assert np.isfinite(found.numpy()).all()


def test_without_damping_fewer_rows_than_parameters_are_refused_at_once(
    online: Client, losses: dict[str, str]
) -> None:
    with pytest.raises(errors.InvalidRequest, match="one to the rank of the empirical Fisher"):
        online.compute_influences(
            "kinds-huber", "kinds-values", "kinds-values", curvature="empirical_fisher",
            hessian_regularization=0.0, hessian_on={"dataset": "kinds-values", "rows": "0:4"},
        )  # fmt: skip


def test_mistakes_in_the_field_are_answered_with_what_there_is(
    http: httpx2.Client, bent: Subject
) -> None:
    job = {
        "kind": "factors", "model": bent.name, "train": {"dataset": bent.train},
        "test": {"dataset": bent.test}, "inversion": {"method": "cg"},
    }  # fmt: skip
    for curvature, pointer, words in (
        ("jacobian", "/curvature", "'hessian', 'gauss_newton', 'fisher' or 'empirical_fisher'"),
        ({"kind": "fisher", "structure": "half"}, "/curvature/structure", "'full'"),
        ({"type": "fisher"}, "/curvature/type", "kind"),
        (3, "/curvature", "JSON object"),
    ):  # fmt: skip
        answer = http.post("/v1/jobs", json={**job, "curvature": curvature})
        assert words in refused(answer, 422, "invalid-request", pointer)
