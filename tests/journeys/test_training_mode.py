"""Models that training changes otherwise than evaluation: their retrainings say so, next to the numbers."""

from __future__ import annotations

from typing import Any

import httpx2
import pytest
import torch
from torch import nn

from upweight import Client
from upweight.schema import ModelRecord

RECIPE = {"optimizer": "sgd", "lr": 0.05, "epochs": 3, "start": "warm"}


def with_dropout() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3)).double()


def with_batch_norm() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)).double()


def plain() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).double()


X = torch.randn(30, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
Y = (X[:, 0] > 0).long() + (X[:, 1] > 0)


def retrained(online: Client, name: str, module: nn.Module) -> tuple[dict[str, Any], ModelRecord]:
    """The info of a retraining's job, and the model that it gave."""
    online.models.register(name, module, example=X[:2], loss="cross_entropy", recipe=RECIPE)
    online.datasets.register(f"{name}-rows", x=X, y=Y)
    made = online.retrain(name, f"{name}-rows", test=f"{name}-rows", rows="0:20")
    assert made.training is not None
    info = online.jobs.get(made.training.job).info
    assert info is not None
    return dict(info), made


@pytest.mark.parametrize(
    ("module", "layers"),
    [(with_dropout(), ["2"]), (with_batch_norm(), ["1"]), (plain(), [])],
    ids=["dropout", "batch-norm", "plain"],
)
def test_a_retraining_names_the_layers_that_it_leaves_in_evaluation_mode(
    online: Client, http: httpx2.Client, fresh_name: str, module: nn.Module, layers: list[str]
) -> None:
    info, made = retrained(online, fresh_name, module)
    assert info["evaluation_mode"] == layers
    assert made.training is not None
    page = http.get(f"/v1/jobs/{made.training.job}/report.html").text
    assert ("evaluation mode" in page) == bool(layers)


def test_dropout_is_off_while_a_model_is_retrained(online: Client, fresh_name: str) -> None:
    """The weights are those of a loop over the module in evaluation mode."""
    _, made = retrained(online, fresh_name, with_dropout())
    net = with_dropout().eval()
    optimiser = torch.optim.SGD(net.parameters(), lr=RECIPE["lr"])
    for _ in range(3):
        optimiser.zero_grad()
        nn.functional.cross_entropy(net(X[:20]), Y[:20]).backward()
        optimiser.step()
    from safetensors.torch import load

    assert made.weights is not None
    found = load(online.blobs.get(made.weights))
    for name, wanted in net.named_parameters():
        assert (found[name] - wanted).abs().max() < 1e-12


def test_quality_says_beside_its_values_what_its_trainings_leave_out(
    online: Client, fresh_name: str
) -> None:
    retrained(online, fresh_name, with_dropout())
    result = online.compute_influences(
        fresh_name, f"{fresh_name}-rows", f"{fresh_name}-rows", test_rows="0:3",
        hessian_regularization=1.0,
    )  # fmt: skip
    table = online.evaluate(result, subsets=4, repeats=1, baselines=False)
    assert any("evaluation mode" in line and "'2'" in line for line in table.remarks)
    verdict = online.jobs.get(result.id).verdict
    assert verdict is not None
    assert verdict.quality is not None
    assert verdict.quality.evaluation_mode == ["2"]
    assert "retrained in evaluation mode" in verdict.quality.in_words
