"""What became of a failure in words: an allocation that fails is no surprise."""

from __future__ import annotations

import pytest
import torch

from upweight.errors import ComputationFailed
from workers.engine import BadParameter
from workers.refusals import public_error


def test_an_allocation_that_fails_names_what_to_change() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.zeros(1 << 50)
    error = public_error(caught.value, "job_1")
    assert isinstance(error, ComputationFailed)
    assert "smaller batch_size" in error.detail
    assert error.errors[0].pointer == "/batch_size"


@pytest.mark.parametrize(
    "words",
    [
        "mat1 and mat2 must have the same dtype, but got Double and Float",
        "expected m1 and m2 to have the same dtype, but got: double != float",
        "expected scalar type Double but found Float",
        "Input type (double) and bias type (float) should be the same",
        "scatter(): Expected self.dtype to be equal to src.dtype",
    ],
)
def test_types_that_do_not_meet_are_a_matter_of_precision(words: str) -> None:
    error = public_error(RuntimeError(words), "job_x")
    assert isinstance(error, ComputationFailed)
    assert error.errors[0].pointer == "/precision"
    assert words in error.detail


def test_a_curvature_that_makes_no_sense_is_told_at_its_field() -> None:
    error = public_error(BadParameter("curvature.kind", "fisher", "take another"), "job_x")
    assert isinstance(error, ComputationFailed)
    assert error.errors[0].pointer == "/curvature/kind"
