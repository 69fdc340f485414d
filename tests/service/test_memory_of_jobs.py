"""What a job is estimated to take of a worker's memory, and what is refused for it."""

from __future__ import annotations

from itertools import product
from types import SimpleNamespace
from typing import Any

import pytest

from service.jobs import counts
from service.jobs.counts import RowBytes
from service.jobs.estimate import MODEL_COPIES, WORKER_BYTES, Counted
from service.jobs.validation.size import refuse_beyond_memory, refuse_vectors_beyond_memory
from service.settings import GIB, MIB, Settings
from upweight.errors import InvalidRequest
from upweight.schema import InfluencesJob, ParameterSpec
from upweight.schema.inversion import ConjugateGradient
from workers.engine.curvature import row_sums
from workers.engine.model.batching import BlockPlan

BILLION = 1_000_000_000
BUDGET = 512 * MIB


def job(**more: Any) -> InfluencesJob:
    return InfluencesJob.model_validate(
        {
            "kind": "influences", "model": "m", "train": {"dataset": "d"}, "test": {"dataset": "d"},
            "hessian_regularization": 0.1, "inversion": {"method": "cg"}, "precision": "float32", **more,
        }
    )  # fmt: skip


def counted(
    parameters: int, count: int, activations: int | None = None, rows: int = 100, **more: Any
) -> Counted:
    whole = ParameterSpec(name="layer.weight", shape=(parameters // 1000, 1000), offset=0)
    model = SimpleNamespace(
        parameter_count=parameters, size_bytes=4 * parameters, selected=[whole], outputs=[],
        activation_bytes=activations, window_bytes=0, reached_bytes=0, place_matrix_bytes=0, precision="float32",
    )  # fmt: skip
    chosen = SimpleNamespace(rows=range(rows))
    inputs: Any = SimpleNamespace(model=model, chosen=[], hessian=chosen, train=chosen)
    return Counted(job(**more), inputs, count)


def test_a_pass_takes_the_rows_and_vectors_that_the_engine_takes() -> None:
    for rows, activations, windows, vectors, budget in product(
        (1, 3, 64, 500, 100_000), (8, 3_000, 400_000, 2 * MIB), (0, 5_000, 3 * MIB), (1, 3, 8, 64, 500),
        (32 * MIB, BUDGET, 4 * GIB),
    ):  # fmt: skip
        block = BlockPlan("cpu", rows, activations, budget, "auto", windows).of(vectors)
        found = RowBytes(activations, windows).at_once(rows, vectors, budget)
        assert found == (block.rows, block.vectors)


def test_the_engine_keeps_of_a_pass_what_is_counted() -> None:
    assert counts.KEPT_PART == row_sums.KEPT_PART
    row = RowBytes(MIB, MIB)
    assert row.kept(128, BUDGET) == 256 * MIB
    assert row.kept(129, BUDGET) == 0


@pytest.mark.parametrize(
    ("given", "rows", "expected"),
    [
        # All rows are kept, and one vector is on its way through all of them.
        ({"rtol": 1e-4}, 10, 10 * 3 * MIB + 10 * MIB),
        ({"rtol": 1e-4, "curvature": "hessian"}, 10, 10 * 5 * MIB + 10 * MIB),
        # More rows than are kept: those at hand, in even parts of what fits.
        ({"rtol": 1e-4}, 200, 100 * 3 * MIB + 100 * MIB),
        # In float64, beside what is kept in float32.
        ({"rtol": 1e-7}, 10, 10 * 3 * MIB + 2 * (10 * 3 * MIB + 10 * MIB)),
    ],
)
def test_rows_are_counted_as_a_pass_keeps_and_takes_them(
    given: dict[str, Any], rows: int, expected: int
) -> None:
    method = ConjugateGradient(rtol=given["rtol"])
    curvature = {"kind": given.get("curvature", "gauss_newton")}
    options = {"curvature": curvature, "inversion": method.model_dump()}
    none = WORKER_BYTES + 4_000 * (MODEL_COPIES + int(method.vectors_at_work(1, single=True)))
    found = counted(1_000, 1, activations=MIB, rows=rows, **options)
    found.inputs.model.window_bytes = found.inputs.model.reached_bytes = 2 * MIB
    assert found.memory(BUDGET, GIB) - none == expected


def test_no_vector_of_a_closed_form_goes_through_the_model() -> None:
    options = {
        "curvature": {"kind": "empirical_fisher", "structure": "diagonal"},
        "inversion": {"method": "direct"},
    }
    for count in (1, 8):
        found, plain = (
            counted(1_000, count, activations=each, rows=10, **options).memory(BUDGET, GIB)
            for each in (MIB, 0)
        )
        assert found - plain == 10 * 2 * MIB


@pytest.mark.parametrize("count", [1, 8])
def test_a_vector_that_the_budget_does_not_hold_is_counted_all_the_same(count: int) -> None:
    found = counted(BILLION, count).memory(BUDGET, GIB)
    held = ConjugateGradient().vectors_held(1, single=True)
    assert found == WORKER_BYTES + 4 * BILLION * (MODEL_COPIES + held)


def test_right_hand_sides_are_counted_as_many_as_are_solved_together() -> None:
    size = 11_000_000
    vector = 4 * size
    kept = WORKER_BYTES + MODEL_COPIES * vector
    for rtol, count, together in ((1e-7, 1, 1), (1e-7, 8, 1), (1e-4, 2, 2), (1e-4, 8, 2)):
        method = ConjugateGradient(rtol=rtol)
        held = method.vectors_held(together, single=True)
        found = counted(size, count, inversion=method.model_dump())
        assert found.memory(BUDGET, GIB) == kept + held * vector


def test_each_further_damping_has_solutions_of_its_own() -> None:
    size = 1_000_000
    one, three = (
        counted(size, 1, hessian_regularization=given).memory(BUDGET, GIB)
        for given in (0.1, [0.1, 0.2, 0.3])
    )
    assert three - one == 2 * 3 * 4 * size


def test_a_job_beyond_what_the_operator_gives_is_refused_with_ways_out() -> None:
    needed = counted(BILLION, 1).memory(BUDGET, GIB)
    refuse_beyond_memory(Settings(), job(), needed)
    refuse_beyond_memory(Settings(job_memory_bytes=needed), job(), needed)
    with pytest.raises(InvalidRequest) as caught:
        refuse_beyond_memory(Settings(job_memory_bytes=8 * GIB), job(), needed)
    assert caught.value.errors is not None
    (error,) = caught.value.errors
    assert error.pointer == "/model"
    for words in (f"{needed:,} bytes", f"{8 * GIB:,}", "fewer 'parameters'", "UPWEIGHT_JOB_MEMORY_BYTES"):  # fmt: skip
        assert words in caught.value.detail


@pytest.mark.parametrize(
    ("inversion", "pointer", "vectors"),
    [
        ({"method": "arnoldi"}, "/inversion/rank_estimate", 34),
        ({"method": "arnoldi", "krylov_dimension": 50}, "/inversion/rank_estimate", 63),
        (
            {"method": "cg", "preconditioner": {"method": "arnoldi", "rank_estimate": 5}},
            "/inversion/preconditioner/rank_estimate",
            19,
        ),
    ],
)
def test_arnoldi_is_refused_where_its_least_vectors_do_not_fit(
    inversion: dict[str, Any], pointer: str, vectors: int
) -> None:
    size = 1_000_000
    asked = job(inversion=inversion)
    refuse_vectors_beyond_memory(Settings(memory_bytes=4 * size * vectors), asked, size)
    with pytest.raises(InvalidRequest) as refused:
        refuse_vectors_beyond_memory(Settings(memory_bytes=4 * size * vectors - 1), asked, size)
    (error,) = refused.value.problem().errors
    assert error.pointer == pointer
    assert f"{4 * size * vectors:,} bytes" in error.detail
    assert "UPWEIGHT_MEMORY_BYTES" in error.detail
