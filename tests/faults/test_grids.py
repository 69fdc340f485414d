"""A job in blocks on two workers gives the bytes that one worker gives, whatever its kind, type and method."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.storage.layout import ResultPaths
from tests.curvatures import CURVATURES
from tests.faults.grids import GridJobs
from tests.faults.other_threads import THREADS, another_worker
from tests.faults.slow_jobs import NAMESPACE
from tests.faults.watched import PATIENCE
from tests.methods import METHODS

EVERYTHING = {"matrix": True, "top": 5, "mean": True, "factors": True}
CASES: dict[str, dict[str, Any]] = {
    **{
        f"influences by {row.name} {number}": {"inversion": inversion, "keep": EVERYTHING}
        for row in METHODS.values()
        for number, inversion in enumerate(map(row.inversion, (row.quick, *row.other)))
    },
    "influences by EK-FAC": {
        "inversion": METHODS["direct"].inversion({}),
        "curvature": {"kind": "fisher", "structure": "ekfac"},
        "keep": EVERYTHING,
    },
    "only the strongest and the mean": {"keep": {"matrix": False, "top": 5, "mean": True}},
    "perturbation": {"influence_type": "perturbation"},
    "perturbation inside": {"influence_type": "perturbation", "perturb_at": "1"},
    "factors": {"kind": "factors"},
    "self-influences by direct": {
        "kind": "self_influences",
        "inversion": METHODS["direct"].inversion({}),
    },
    "self-influences by cg": {"kind": "self_influences"},
    "bf16": {"precision": "bf16"},
    **{
        f"{kind} by {method}": {"curvature": kind, "inversion": METHODS[method].inversion(quick)}
        for kind in CURVATURES
        if kind != "hessian"
        for method, quick in (("direct", {}), ("lissa", METHODS["lissa"].quick))
    },
}


@pytest.mark.parametrize("case", CASES)
def test_a_spread_job_gives_the_bytes_of_one_task(grid: GridJobs, case: str) -> None:
    values = CASES[case]
    alone, spread = grid.start(spread=False, **values), grid.start(spread=True, **values)
    assert grid.digests(spread) == grid.digests(alone)
    one, many = grid.client.jobs.get(alone.id), grid.client.jobs.get(spread.id)
    assert many.info == one.info
    assert many.cost is not None
    assert one.cost is not None
    assert many.cost.hessian_passes == one.cost.hessian_passes


def test_right_hand_sides_of_ones_own_and_factors_of_before(grid: GridJobs) -> None:
    b = np.random.default_rng(0).normal(size=(5, grid.parameters)).astype("f4")
    found = [
        grid.client.solve_hvp(
            "cg", "grid-net", "grid-rows", b, hessian_regularization=1.0, reuse=False,
            blocks={"rhs_rows": 2, "spread": spread},
        )
        for spread in (False, True)
    ]  # fmt: skip
    assert np.array_equal(found[0].x.numpy(), found[1].x.numpy())
    factors = grid.ended(grid.start(spread=True, kind="factors"))
    again = [grid.start(spread=spread, factors=factors.id) for spread in (False, True)]
    whole, one, many = (grid.digests(job) for job in (grid.start(spread=True), *again))
    assert one == many
    chunks = {path for path in whole if path.startswith("influences/")}
    assert len(chunks) == 1 + 3 * 5
    assert {path: one[path] for path in chunks} == {path: whole[path] for path in chunks}


def test_a_worker_with_other_threads_gives_the_same_bytes(grid: GridJobs, tmp_path: Path) -> None:
    """By direct: a factorisation by more threads has other last bits."""
    values = {"inversion": METHODS["direct"].inversion({})}
    calm = grid.digests(grid.start(spread=True, **values))
    log, deadline = tmp_path / "log", time.monotonic() + 2 * PATIENCE
    with another_worker(grid.service, log):
        while time.monotonic() < deadline:
            job = grid.start(spread=True, **values)
            found = grid.digests(job)
            manifest = ResultPaths(NAMESPACE, job.id).manifest
            plan = json.loads((Path(grid.service.storage) / manifest).read_text())["plan"]
            factorised = any(
                job.id in line and '"block-began"' in line and '"fit-0"' in line
                for line in log.read_text().splitlines()
            )
            if plan["threads"] != THREADS and factorised:
                assert found == calm
                return
    raise AssertionError("no job was planned by one and factorised by the other")
