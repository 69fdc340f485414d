"""What planning times: few rows, told, and ended by whoever asks."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from upweight.schema import InfluencesJob
from workers.engine import Batch, Problem, TensorRows, make_loss
from workers.jobs import estimate
from workers.jobs.estimate import estimated


class Counted(TensorRows):
    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.sizes: list[int] = []

    def batches(self, size: int, start: int = 0, stop: int | None = None) -> Iterator[Batch]:
        self.sizes.append(size)
        return super().batches(size, start, stop)


class Ended(Exception):
    pass


def inputs_of(width: int, rows: int, progress: Any) -> Any:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(8, width), nn.Tanh(), nn.Linear(width, 8))
    problem = Problem(module.eval(), make_loss("cross_entropy"))
    train = Counted((torch.randn(rows, 8),), torch.arange(rows) % 8)
    return SimpleNamespace(
        problem=problem, train=train, hessian_rows=train, progress=progress, positions=1
    )


def job() -> InfluencesJob:
    return InfluencesJob.model_validate(
        {
            "kind": "influences", "model": "m", "train": {"dataset": "d"}, "test": {"dataset": "d"},
            "hessian_regularization": 0.1, "inversion": {"method": "cg"},
        }
    )  # fmt: skip


LARGE, ROWS, BUDGET = 60_000, 400, 512 * 1024**2  # 1,020,008 parameters


def test_a_large_model_is_timed_on_two_rows_and_none_has_a_gradient_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refused(*_: Any) -> None:
        raise AssertionError("gradients of rows are written out")

    monkeypatch.setattr(estimate, "per_example_gradients", refused)
    inputs = inputs_of(LARGE, ROWS, lambda *_: None)
    found = estimated(job(), inputs, 4, 4, 1, BUDGET)
    assert found.right_hand_side > 0.0
    assert max(inputs.train.sizes) <= 2


def test_gradients_that_are_written_out_stay_within_a_part_of_the_budget() -> None:
    inputs = inputs_of(10_000, ROWS, lambda *_: None)
    row_bytes = inputs.problem.size * 4
    estimated(job(), inputs, 64, 64, 1, 12 * 8 * row_bytes)
    assert max(inputs.train.sizes) <= 8


def test_planning_is_told_and_ends_when_it_is_asked_to() -> None:
    told: list[str] = []

    def progress(stage: str, done: int, total: int, unit: str) -> None:
        told.append(stage)
        if done:
            raise Ended

    with pytest.raises(Ended):
        estimated(job(), inputs_of(LARGE, ROWS, progress), 4, 4, 1, BUDGET)
    assert told == ["plan", "plan"]
