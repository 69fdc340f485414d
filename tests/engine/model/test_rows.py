"""Rows keep their numbers and their order, and say so when lengths differ."""

from __future__ import annotations

import pytest
import torch

from workers.engine import BadParameter, ShapeMismatch, TensorRows


def test_batches_are_consecutive_and_the_last_one_is_short() -> None:
    rows = TensorRows(torch.arange(7.0)[:, None], torch.arange(7))
    batches = list(rows.batches(3))
    assert [(each.start, len(each)) for each in batches] == [(0, 3), (3, 3), (6, 1)]
    assert torch.equal(torch.cat([each.target_tensors[0] for each in batches]), torch.arange(7))


def test_a_range_of_rows_keeps_their_numbers() -> None:
    rows = TensorRows(torch.arange(10.0)[:, None])
    batches = list(rows.batches(4, start=3, stop=8))
    assert [(each.start, len(each)) for each in batches] == [(3, 4), (7, 1)]
    assert batches[1].inputs[0].item() == 7.0


def test_rows_are_taken_in_the_order_asked_for() -> None:
    targets = (torch.arange(5), torch.arange(5) * 10)
    batch = TensorRows(torch.arange(5.0)[:, None], targets).take(torch.tensor([4, 0, 4]))
    assert batch.inputs[0][:, 0].tolist() == [4.0, 0.0, 4.0]
    assert batch.target_tensors[1].tolist() == [40, 0, 40]


def test_inputs_and_targets_of_different_lengths_are_refused() -> None:
    with pytest.raises(ShapeMismatch, match="target 0"):
        TensorRows(torch.zeros(4, 2), torch.zeros(5))
    with pytest.raises(ShapeMismatch, match="input 1"):
        TensorRows((torch.zeros(4, 2), torch.zeros(3)))


def test_no_inputs_and_empty_batches_are_refused() -> None:
    with pytest.raises(BadParameter):
        TensorRows(())
    with pytest.raises(BadParameter, match="batch_size"):
        list(TensorRows(torch.zeros(3, 1)).batches(0))


def test_rows_hold_no_graph_of_the_caller() -> None:
    inputs = torch.zeros(3, 1, requires_grad=True) * 2
    assert not next(TensorRows(inputs).batches(3)).inputs[0].requires_grad
