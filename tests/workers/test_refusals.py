"""What became of a failure in words: an allocation that fails is no surprise."""

from __future__ import annotations

import pytest
import torch

from upweight.errors import ComputationFailed
from workers.refusals import said


def test_an_allocation_that_fails_names_what_to_change() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.zeros(1 << 50)
    error = said(caught.value, "job_1")
    assert isinstance(error, ComputationFailed)
    assert "smaller batch_size" in error.detail
    assert error.errors[0].pointer == "/batch_size"
