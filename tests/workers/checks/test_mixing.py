"""A job looks at whether its own first rows see each other."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from workers.checks.rows import refuse_mixed_rows
from workers.engine import Problem, RowsMixed, TensorRows, make_loss

PROGRAM = make_loss("program")


class Cox(nn.Module):
    """A risk set that runs over the rows of the batch, or over members that a row has of its own."""

    def __init__(self, axis: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.axis, self.risk = axis, nn.Linear(3, 1)

    def forward(self, x: Tensor, event: Tensor) -> Tensor:
        r = self.risk(x).squeeze(-1)
        loss = r - torch.logcumsumexp(r, self.axis)
        return -(loss if self.axis == 0 else loss[:, -1]) * event


def rows(count: int, *shape: int, event: Tensor | None = None) -> TensorRows:
    torch.manual_seed(1)
    return TensorRows(torch.randn(count, *shape), torch.ones(count) if event is None else event)


def looked_at(module: nn.Module, given: Any, **options: Any) -> bool:
    return refuse_mixed_rows(Problem(module, PROGRAM), given, **{"elsewhere": False, **options})


def test_risk_sets_over_the_rows_are_refused() -> None:
    with pytest.raises(RowsMixed):
        looked_at(Cox(0), rows(40, 3))


def test_risk_sets_within_a_row_are_not() -> None:
    assert looked_at(Cox(1), rows(40, 5, 3))


def test_rows_in_which_nothing_happens_come_first_in_many_data_sets() -> None:
    event = (torch.arange(200) >= 100).float()
    with pytest.raises(RowsMixed):
        looked_at(Cox(0), rows(200, 3, event=event))


@pytest.mark.parametrize(
    "given", [rows(1, 3), TensorRows(torch.ones(9, 3), torch.ones(9))], ids=["one", "alike"]
)
def test_of_one_row_and_of_rows_that_are_alike_nothing_is_told(given: TensorRows) -> None:
    assert not looked_at(Cox(0), given)


def test_no_more_rows_are_computed_at_once_than_the_job_takes() -> None:
    seen: list[int] = []

    class Counting(Cox):
        def forward(self, x: Tensor, event: Tensor) -> Tensor:
            seen.append(len(x))
            return super().forward(x, event)

    assert looked_at(Counting(1), rows(40, 5, 3), batch_size=3)
    assert max(seen) == 3


def test_where_memory_is_short_fewer_rows_do() -> None:
    class Large(Cox):
        def forward(self, x: Tensor, event: Tensor) -> Tensor:
            if len(x) > 2:
                raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
            return super().forward(x, event)

    assert looked_at(Large(1), rows(40, 5, 3))
    with pytest.raises(RowsMixed):
        looked_at(Large(0), rows(40, 3))


def test_another_place_is_looked_at_where_registration_has_not() -> None:
    class Sized(nn.Linear):
        def forward(self, x: Tensor, event: Tensor) -> Tensor:
            return super().forward(x).squeeze(-1) / len(x)

    assert looked_at(Sized(3, 1), rows(40, 3))
    with pytest.raises(RowsMixed):
        looked_at(Sized(3, 1), rows(40, 3), elsewhere=True)


def test_wide_rows_are_not_read_by_the_hundred() -> None:
    read: list[int] = []

    class Wide(TensorRows):
        def batches(self, size: int, start: int = 0, stop: int | None = None) -> Any:
            read.append(size)
            return super().batches(size, start, stop)

    problem = Problem(nn.Linear(100_000, 1), make_loss("mse"))
    wide = Wide(torch.randn(40, 100_000), torch.ones(40, 1))
    assert refuse_mixed_rows(problem, wide, elsewhere=False)
    assert max(read) < 40
