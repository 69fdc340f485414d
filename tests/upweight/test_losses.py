"""Losses as callers have them, before anything is sent."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from upweight.client.losses import NAMES, LossName, written
from upweight.errors import InvalidRequest


class Focal(nn.CrossEntropyLoss):
    def forward(self, input: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return super().forward(input, target) ** 2


class Smoothed(nn.CrossEntropyLoss):
    def __init__(self) -> None:
        super().__init__(label_smoothing=0.1)


def hooked() -> nn.Module:
    loss = nn.MSELoss()
    loss.register_forward_hook(lambda module, args, output: 2 * output)
    return loss


@pytest.mark.parametrize(
    ("loss", "fields"),
    [
        (nn.CrossEntropyLoss(), {"name": "cross_entropy"}),
        (Smoothed(), {"name": "cross_entropy", "label_smoothing": 0.1}),
        (
            nn.CrossEntropyLoss(torch.tensor([1.0, 0.5]), ignore_index=0),
            {"name": "cross_entropy", "class_weights": [1.0, 0.5], "ignore_index": 0},
        ),
        (nn.HuberLoss(delta=2.0), {"name": "huber", "delta": 2.0}),
        (nn.PoissonNLLLoss(log_input=False), {"name": "poisson_nll", "log_input": False}),
        (nn.functional.nll_loss, {"name": "nll"}),
        (nn.BCEWithLogitsLoss(), {"name": "bce_with_logits"}),
        (
            nn.BCEWithLogitsLoss(pos_weight=torch.tensor([2.0, 0.5])),
            {"name": "bce_with_logits", "pos_weight": [2.0, 0.5]},
        ),
        (
            nn.BCEWithLogitsLoss(pos_weight=torch.tensor(2.0)),
            {"name": "bce_with_logits", "pos_weight": 2.0},
        ),
        ("mse", "mse"),
        ({"name": "huber", "delta": 2}, {"name": "huber", "delta": 2}),
    ],
)
def test_a_loss_is_written_with_the_options_that_it_has(loss: Any, fields: Any) -> None:
    assert written(loss) == fields


@pytest.mark.parametrize(
    ("loss", "fields"),
    [
        (nn.MSELoss(reduction="sum"), {"name": "mse", "reduction": "sum"}),
        (nn.CrossEntropyLoss(reduction="sum"), {"name": "cross_entropy", "positions": "sum"}),
    ],
)
def test_a_sum_is_taken_of_each_row_and_said_to_be_a_mean_over_the_rows(
    loss: Any, fields: Any, caplog: pytest.LogCaptureFixture
) -> None:
    assert written(loss) == fields
    assert "λ = w / n" in caplog.text


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        (nn.CrossEntropyLoss(reduction="none"), "reduction='none'.*give reduction='mean' or 'sum'"),
        (nn.BCEWithLogitsLoss(pos_weight=torch.ones(2, 2)), r"pos_weight=….*\[2, 2\]"),
        (nn.BCEWithLogitsLoss(torch.ones(4, 2)), r"BCEWithLogitsLoss\(weight=…\).*row_weights"),
        (nn.SmoothL1Loss(beta=0.5), r"HuberLoss\(delta=0.5\) divided by 0.5.*λ times 0.5"),
        (nn.L1Loss(), "not twice differentiable.*HuberLoss"),
        (nn.functional.l1_loss, "not twice differentiable"),
        (nn.SmoothL1Loss(beta=0.0), "not twice differentiable"),
        (nn.BCELoss(), "leave the sigmoid out of the model and give BCEWithLogitsLoss"),
        (nn.KLDivLoss(), "KLDivLoss is not among cross_entropy, .*loss='program'"),
        (nn.PoissonNLLLoss(log_input=False, eps=1e-3), r"eps=0.001\) has no field"),
        (nn.GaussianNLLLoss(eps=1e-3), r"eps=0.001\) has no field"),
        (nn.GaussianNLLLoss(), r"output=\[0, 1\]"),
        (Focal(), "Focal computes something else than CrossEntropyLoss"),
        (hooked(), "MSELoss computes something else"),
        (nn.CrossEntropyLoss, r"is a class; give an instance, loss=CrossEntropyLoss\(\)"),
        (partial(nn.functional.cross_entropy, label_smoothing=0.1), "partial is no loss of torch"),
        (lambda outputs, y: outputs.sum(), "no loss of torch.nn; give a module of torch.nn"),
    ],
)
def test_what_no_field_expresses_is_refused_by_name_with_a_way_out(loss: Any, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words) as caught:
        written(loss)
    assert caught.value.errors[0].pointer == "/loss"


def test_the_names_that_editors_complete_are_those_that_the_service_knows() -> None:
    assert list(LossName.__args__) == NAMES  # type: ignore[attr-defined]
