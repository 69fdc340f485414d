"""What a job is estimated to take of a worker's memory, and what is refused for it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from service.jobs.estimate import MODEL_COPIES, WORKER_BYTES, Counted
from service.jobs.validation.size import refuse_beyond_memory
from service.settings import GIB, MIB, Settings
from upweight.errors import InvalidRequest
from upweight.schema import InfluencesJob, ParameterSpec
from upweight.schema.inversion import ConjugateGradient

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
        activation_bytes=activations,
    )  # fmt: skip
    chosen = SimpleNamespace(rows=range(rows))
    inputs: Any = SimpleNamespace(model=model, chosen=[], hessian=chosen, train=chosen)
    return Counted(job(**more), inputs, count)


def test_activations_are_those_of_a_batch_of_rows_within_the_budget() -> None:
    none = counted(1_000, 1).memory(BUDGET, GIB)
    for count, rows, expected in (
        (1, 10, 10 * 2 * MIB),
        (3, 10, 10 * 4 * MIB),
        (1, 1_000, 128 * 2 * MIB),
        (8, 1_000, BUDGET),
    ):
        vectors = counted(1_000, count).memory(BUDGET, GIB) - none
        found = counted(1_000, count, activations=MIB, rows=rows)
        assert found.memory(BUDGET, GIB) - none == vectors + expected


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
