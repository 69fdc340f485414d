"""What a job will take, told before it runs and held against what it took."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.journeys.subjects import Subject
from upweight import Client, InfluenceResult, InvalidRequest, NotFound

ROWS, TEST = 600, 150
WITHIN = 0.2  # of what is stored


@pytest.fixture(scope="module")
def wide(online: Client) -> str:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(20, 12), nn.Tanh(), nn.Linear(12, 5))
    x = torch.randn(ROWS, 20)
    online.models.register("estimated", module, example=x[:2], loss="cross_entropy")
    online.datasets.register("estimated", x=x, y=torch.arange(ROWS) % 5)
    return "estimated"


def influences(client: Client, name: str, **more: Any) -> InfluenceResult:
    return client.compute_influences(
        name, name, name, test_rows=f"0:{TEST}", **{"hessian_regularization": 0.1, **more}
    )


def test_a_dry_run_tells_what_it_would_take_and_starts_nothing(online: Client, wide: str) -> None:
    result = influences(online, wide, curvature="fisher", labels={"run": "dry"}, dry_run=True)
    assert result.estimate is not None
    assert result.estimate.seconds > 0
    assert result.estimate.memory_bytes > 0
    with pytest.raises(NotFound):
        online.jobs.get(result.id)
    assert not list(online.jobs.list(labels={"run": "dry"}))


def test_memory_counts_rows_in_their_own_type(online: Client) -> None:
    model = online.models.register(
        "column", nn.Linear(3, 2), example=torch.randn(2, 3), loss="cross_entropy"
    )
    assert model.parameter_count == 8

    def memory(name: str, count: int) -> int:
        x, y = torch.randn(count, 3), torch.arange(count) % 2
        online.datasets.register(name, x=x, y=y)
        found = online.compute_influences(
            "column", name, name, train_rows="0:1", test_rows="0:1", hessian_on={"dataset": name, "rows": "0:9"},
            hessian_regularization=0.1, dry_run=True,
        ).estimate  # fmt: skip
        assert found is not None
        return found.memory_bytes

    # Three numbers of four bytes, and a label of eight.
    assert memory("long", 5000) - memory("short", 1000) == 4000 * (3 * 4 + 8)


def test_memory_counts_the_activations_of_a_batch_of_rows(online: Client) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(8 * 16 * 16, 2)
    )
    x = torch.randn(64, 3, 16, 16)
    model = online.models.register("pictures", module, example=x[:2], loss="cross_entropy")
    online.datasets.register("pictures", x=x, y=torch.arange(64) % 2)
    hidden = 4 * 8 * 16 * 16
    assert model.activation_bytes is not None
    assert hidden <= model.activation_bytes <= 12 * hidden

    def memory(rows: int) -> int:
        result = online.compute_influences(
            "pictures", "pictures", "pictures", train_rows="0:1", test_rows="0:1", dry_run=True,
            hessian_on={"dataset": "pictures", "rows": f"0:{rows}"},
            inversion_method="cg", rtol=1e-4, curvature="gauss_newton", hessian_regularization=0.1,
        )  # fmt: skip
        assert result.estimate is not None
        return result.estimate.memory_bytes

    # A row goes through the model once for itself and once for the one right-hand side; 16 × 16 windows of 27 inputs.
    assert model.window_bytes == 4 * 16 * 16 * 27
    assert model.reached_bytes == 4 * 16 * 16 * 8 * 9
    assert memory(64) - memory(32) == 32 * (2 * model.activation_bytes + model.window_bytes)


@pytest.mark.parametrize(
    "options",
    [
        {"hessian_regularization": 0.5},
        {"inversion_method": "cg", "curvature": "gauss_newton"},
        {"keep": {"matrix": False, "factors": True}, "curvature": "fisher"},
        {"keep": {"matrix": True, "top": 40, "mean": True}, "curvature": "fisher"},
        {"inversion_method": "ekfac"},
    ],
    ids=["direct", "cg", "factors", "top", "ekfac"],
)
def test_the_bytes_are_those_that_are_stored(
    online: Client, wide: str, options: dict[str, Any]
) -> None:
    result = influences(online, wide, **options)
    assert result.job.result is not None
    assert result.estimate is not None
    stored = result.job.result.size_bytes
    assert abs(result.estimate.bytes - stored) < WITHIN * stored


def test_right_hand_sides_are_counted_in_their_blob(online: Client, iris: Subject) -> None:
    rhs = np.ones((500, iris.size))
    result = online.solve_hvp("direct", iris.name, iris.train, rhs, hessian_regularization=0.1)
    assert result.job.result is not None
    assert result.estimate is not None
    stored = result.job.result.size_bytes
    assert abs(result.estimate.bytes - stored) < WITHIN * stored


def test_what_is_counted_grows_with_the_rows(online: Client, wide: str) -> None:
    def flops(**more: Any) -> float:
        estimate = influences(online, wide, dry_run=True, curvature="fisher", **more).estimate
        assert estimate is not None
        assert estimate.flops is not None
        return estimate.flops

    size = 20 * 12 + 12 + 12 * 5 + 5
    whole, half = flops(), flops(hessian_on={"dataset": wide, "rows": f"0:{ROWS // 2}"})
    # 5/4 operations a row and entry of the matrix, which has one column a row, and a gradient to draw its label.
    assert whole - half == pytest.approx((ROWS // 2) * (1.25 * size**2 + 6 * size))
    fewer = flops(train_rows=f"0:{ROWS // 2}")
    # Of a row a gradient, and its product with the factors of each test row.
    assert whole - fewer == pytest.approx((ROWS // 2) * (6 * size + 2 * size * TEST))


def test_rows_by_id_by_value_and_in_sets_are_counted_as_they_will_be_submitted(
    online: Client, iris: Subject
) -> None:
    ids = [f"flower {row}" for row in range(120)]
    source = {"source": [row % 3 for row in range(120)]}
    given = {"x": iris.x_train, "y": iris.y_train, "ids": ids, "metadata": source}
    train = online.datasets.register("iris-estimated", **given)

    def told(**more: Any) -> int:
        options = {"hessian_regularization": iris.damping, "dry_run": True, **more}
        found = online.compute_influences(iris.name, train, train, **options).estimate
        assert found is not None
        return int(found.bytes)

    half = told(train_rows="0:40", test_rows="0:3")
    assert told(train_where={"source": 1}, test_rows=ids[:3]) == half < told()
    assert told(groups=[ids[:2], [4, 5]]) == told(groups=["0:2", "4:6"])
    with pytest.raises(InvalidRequest, match=r"no row of 'iris-estimated' has"):
        told(groups=[["flower 1", "flower-2"]])


def test_a_job_that_takes_days_says_so_and_names_what_is_cheaper(
    online: Client, wide: str, caplog: pytest.LogCaptureFixture
) -> None:
    def submitted(**more: Any) -> InfluenceResult:
        return influences(
            online,
            wide,
            curvature="fisher",
            inversion_method="lissa",
            maxiter=1_000_000_000,
            **more,
        )

    estimate = submitted(dry_run=True).estimate
    assert estimate is not None
    assert estimate.remark is not None
    assert "days at" in estimate.remark
    assert "takes about" in (estimate.cheaper or "")
    assert (estimate.cheaper_seconds or np.inf) < estimate.seconds / 2
    instead = influences(
        online, wide, curvature="fisher", inversion_method=estimate.cheaper_inversion, dry_run=True
    ).estimate
    assert instead is not None
    assert instead.flops < estimate.flops / 2
    assert "days at" not in caplog.text
    started = submitted(wait=False)
    assert f"{started.id}: this job takes about" in caplog.text
    online.jobs.cancel(started.id)


def test_a_damping_that_a_known_spectrum_refuses_is_named(online: Client, wide: str) -> None:
    known = online.compute_influences(wide, wide, wide, hessian_regularization=1.0)
    smallest = float(known.info["smallest_eigenvalue"])
    assert smallest < 0

    def fails(damping: float) -> str:
        told = online.compute_influences(
            wide, wide, wide, hessian_regularization=damping, dry_run=True
        ).estimate
        assert told is not None
        if told.fails is not None:
            assert damping < -smallest < told.enough
            assert fails(told.enough) == ""
        return told.fails or ""

    words = fails(-smallest / 2)
    # Of several jobs that found the spectrum any may be named.
    named = re.search(r"by job (job_\w+)", words)
    assert named is not None
    found = online.jobs.result(named[1]).info["smallest_eigenvalue"]
    assert found == pytest.approx(smallest)
    assert not fails(-2 * smallest)


def test_a_retraining_tells_what_it_takes(online: Client, fresh_name: str) -> None:
    x = torch.randn(8, 3)
    recipe = {"optimizer": "sgd", "lr": 0.1, "epochs": 1, "start": "warm"}
    online.models.register(
        fresh_name, nn.Linear(3, 2), example=x, loss="cross_entropy", recipe=recipe
    )
    online.datasets.register(fresh_name, x=x, y=torch.arange(8) % 2)
    request = {"kind": "retrain", "model": fresh_name, "train": {"dataset": fresh_name}}
    estimate = online.jobs.create(request, dry_run=True).estimate
    assert estimate is not None
    assert estimate.flops == 6 * 8 * 8  # of a gradient, by parameters and rows
    assert estimate.seconds is not None
    assert estimate.fixed_seconds is not None
    assert estimate.seconds > estimate.fixed_seconds
    assert estimate.bytes > 0
    several = online.jobs.create(
        {**request, "recipe": {**recipe, "epochs": 10}}, dry_run=True
    ).estimate
    assert several is not None
    assert several.flops == 10 * estimate.flops


def test_what_a_job_takes_whatever_is_in_it_is_that_of_jobs_before(
    online: Client, wide: str
) -> None:
    done = influences(online, wide, curvature="fisher", batch_size=64)
    assert done.job.cost is not None
    told = influences(online, wide, curvature="fisher", dry_run=True).estimate
    assert told is not None
    assert told.fixed_seconds != 0.5  # what is assumed where no job has told one
    assert told.fixed_seconds > 0.0
    assert told.seconds >= told.fixed_seconds
