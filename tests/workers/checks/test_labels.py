"""Labels that the model has no output for are refused; otherwise they would count as no class at all, silently."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from upweight.errors import InvalidRequest
from workers.checks.rows import refuse_labels_out_of_range
from workers.engine import Batch, Problem, TensorRows, make_loss


def checked(labels: Tensor, loss: str = "cross_entropy", **parameters: int) -> None:
    problem = Problem(nn.Linear(4, 3), make_loss(loss, **parameters), ("*",))
    refuse_labels_out_of_range(problem, TensorRows(torch.ones(len(labels), 4), labels), "/test")


def test_labels_among_the_classes_pass() -> None:
    checked(torch.tensor([0, 2, 1]))


@pytest.mark.parametrize("label", [3, -1, 2**40])
def test_a_label_out_of_range_names_the_row_and_the_range(label: int) -> None:
    with pytest.raises(InvalidRequest, match=r"in row 1 .* from 0 to 2.*'ignore_index'") as caught:
        checked(torch.tensor([0, label, 1]))
    assert caught.value.errors[0].pointer == "/test"


def test_ignored_labels_do_not_hide_one_that_is_out_of_range() -> None:
    checked(torch.tensor([0, -100, 1]))
    checked(torch.tensor([0, 255, 1]), ignore_index=255)
    with pytest.raises(InvalidRequest, match="in row 2"):
        checked(torch.tensor([-100, 0, 7]))
    with pytest.raises(InvalidRequest, match="in row 2"):
        checked(torch.tensor([255, 0, -7]), ignore_index=255)


def test_values_are_no_labels() -> None:
    checked(torch.full((2, 3), 9.0), "mse")


@pytest.mark.parametrize("label", [1.5, -0.25, float("nan")])
def test_a_label_of_two_classes_lies_from_0_to_1(label: float) -> None:
    checked(torch.tensor([[0.0], [1.0], [0.3]]), "bce_with_logits")
    checked(torch.tensor([0, 1, 1]), "bce_with_logits")
    with pytest.raises(InvalidRequest, match=r"in row 1 of .* takes labels from 0 to 1"):
        checked(torch.tensor([[0.0], [label], [1.0]]), "bce_with_logits")


class Wide:
    """Rows that are made as they are asked for; remembers the most bytes that were asked for at once."""

    def __init__(self, labels: Tensor) -> None:
        self.labels, self.most = labels, 0

    def __len__(self) -> int:
        return len(self.labels)

    def batches(self, size: int, start: int = 0, stop: int | None = None) -> Iterator[Batch]:
        for first in range(start, len(self) if stop is None else stop, size):
            labels = self.labels[first : first + size]
            self.most = max(self.most, len(labels) * 4096)
            yield Batch((torch.ones(1, 1024).expand(len(labels), -1),), labels, first)

    def take(self, indices: Tensor) -> Batch:
        raise NotImplementedError


def test_rows_are_looked_at_some_at_a_time() -> None:
    problem = Problem(nn.Linear(1024, 3), make_loss("cross_entropy"), ("*",))
    rows = Wide(torch.arange(20_000) % 3)
    refuse_labels_out_of_range(problem, rows, "/train")
    assert rows.most <= 4 * 1024**2
    rows.labels[17_000] = 3
    with pytest.raises(InvalidRequest, match="in row 17000"):
        refuse_labels_out_of_range(problem, rows, "/train")
