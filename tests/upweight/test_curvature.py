"""The field `curvature` of a job: what may be written, and what it leaves as it was."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from upweight.schema import Curvature, JobRequest
from upweight.schema.curvature import KINDS, STRUCTURES

JOB: TypeAdapter[Any] = TypeAdapter(JobRequest)


def job(**fields: Any) -> Any:
    request = {"kind": "factors", "model": "m", "train": {"dataset": "a"}, "test": {"dataset": "b"}}
    return JOB.validate_python({**request, "inversion": {"method": "direct"}, **fields})


def test_a_job_without_the_field_is_of_the_whole_hessian() -> None:
    assert job().curvature == Curvature(kind="hessian", structure="full")
    assert job().curvature.is_default


def test_a_string_is_the_kind() -> None:
    assert job(curvature="hessian").curvature == job(curvature={"kind": "hessian"}).curvature


@pytest.mark.parametrize("name", STRUCTURES)
def test_a_structure_is_of_the_kinds_that_it_says(name: str) -> None:
    for kind in KINDS:
        if kind in STRUCTURES[name].kinds:
            assert job(curvature={"kind": kind, "structure": name}).curvature.structure == name
        else:
            with pytest.raises(ValidationError, match=f"{name}.*not of '{kind}': its factors"):
                job(curvature={"kind": kind, "structure": name})


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_is_there(name: str) -> None:
    asked = job(curvature={"kind": name}).curvature
    assert (asked.kind, asked.structure) == (name, "full")
    assert asked.label == KINDS[asked.kind].label


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValidationError, match="hessian"):
        job(curvature="jacobian")
