"""A model's record says what trains and what is held fixed, however the model came."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests import huggingface_models
from tests.frozen_models import ROWS, adapted, frozen_body, network, rows, trained_part
from tests.journeys.formulas import Formula
from upweight import Client
from upweight.errors import InvalidRequest, Rejected

DAMPING = 2.0
pytestmark = pytest.mark.filterwarnings("ignore")


def distance(client: Client, name: str, module: nn.Module, x: Tensor, y: Tensor) -> float:
    """Of the influences of the job to those of the formula over what trains."""
    result = client.compute_influences(
        name, name, name, test_rows="0:3", inversion_method="direct", hessian_regularization=DAMPING,
        precision="float64",
    )  # fmt: skip
    formula = Formula(trained_part(module), F.cross_entropy, x, y, DAMPING)
    exact: Any = formula.up(formula.factors(x[:3], y[:3]), x, y).numpy()
    return float(np.linalg.norm(result.numpy() - exact) / np.linalg.norm(exact))


def test_adapters_train_and_their_base_is_held_fixed(online: Client, fresh_name: str) -> None:
    torch.manual_seed(0)
    module, x, y = adapted().double().eval(), rows(), torch.arange(ROWS) % 3
    record = online.models.register(fresh_name, module, example=x[:2], loss="cross_entropy")
    assert [each.name for each in record.selected] == [
        "0.lora_A", "0.lora_B", "2.lora_A", "2.lora_B",
    ]  # fmt: skip
    assert record.held_fixed is not None
    assert record.held_fixed.reason == "requires_grad is False"
    assert record.held_fixed.parameter_count == 27
    assert "requires_grad is False" in record._repr_html_()
    online.datasets.register(fresh_name, x=x, y=y)
    assert distance(online, fresh_name, module, x, y) < 1e-6


def test_the_digest_tells_all_from_those_that_train(online: Client, fresh_name: str) -> None:
    module, x = frozen_body().eval(), rows()[:2].float()
    every = online.models.register(
        fresh_name, module, example=x, loss="cross_entropy", parameters="*"
    )
    assert (every.parameters, every.parameter_count, every.held_fixed) == (["*"], 27, None)
    trained = online.models.register(fresh_name, module, example=x, loss="cross_entropy")
    assert (trained.parameters, trained.parameter_count) == (None, 12)
    assert trained.digest != every.digest


def test_a_live_module_that_trains_nothing_is_refused_before_anything_is_sent(
    online: Client, fresh_name: str
) -> None:
    module = network().requires_grad_(False).eval()
    with pytest.raises(InvalidRequest, match=r"parameters=\['\*'\]"):
        online.models.register(fresh_name, module, example=rows()[:2].float(), loss="cross_entropy")


def test_an_archive_that_trains_nothing_is_refused_with_the_way_out(
    online: Client, fresh_name: str, tmp_path: Path
) -> None:
    module = network().requires_grad_(False).eval()
    batch = ({0: torch.export.Dim("batch")},)
    program = torch.export.export(module, (rows()[:2].float(),), dynamic_shapes=batch)
    torch.export.save(program, tmp_path / "net.pt2")
    with pytest.raises(Rejected, match=r"\['\*'\] for all") as caught:
        online.models.register(fresh_name, tmp_path / "net.pt2", loss="cross_entropy")
    assert [each.pointer for each in caught.value.errors] == ["/parameters"]


def test_a_live_model_of_transformers_keeps_what_is_frozen(online: Client, fresh_name: str) -> None:
    model = huggingface_models.classifier(vocabulary=9, width=4, inner=5, positions=5)
    model.bert.requires_grad_(False)
    ids = torch.randint(1, 9, (ROWS, 5), generator=torch.Generator().manual_seed(0))
    y = torch.arange(ROWS) % 3
    record = online.models.register(fresh_name, model, example=ids[:2], loss="cross_entropy")
    assert [each.name for each in record.selected] == ["classifier.weight", "classifier.bias"]
    assert record.held_fixed is not None
    assert record.held_fixed.reason == "requires_grad is False"
    online.datasets.register(fresh_name, x=ids, y=y)
    with torch.no_grad():
        pooled = copy.deepcopy(model).double().bert(input_ids=ids).pooler_output
    assert distance(online, fresh_name, model.classifier.double(), pooled, y) < 1e-6


class TwoHeads(nn.Module):
    """Two outputs of one body."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.scores, self.size = nn.Linear(4, 4), nn.Linear(4, 2), nn.Linear(4, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        inner = self.body(x).tanh()
        return {"scores": self.scores(inner), "size": self.size(inner)}


def test_the_head_whose_output_is_not_chosen_is_told_to_be_unused(
    online: Client, fresh_name: str
) -> None:
    torch.manual_seed(0)
    module, x, y = TwoHeads().double().eval(), rows(), torch.arange(ROWS) % 2
    record = online.models.register(
        fresh_name, module, example=x[:2], loss="cross_entropy", output="scores"
    )
    assert record.unused == ["size.weight", "size.bias"]
    assert record.parameter_count == sum(each.numel() for each in module.parameters())
    online.datasets.register(fresh_name, x=x, y=y)
    result = online.compute_influences(
        fresh_name, fresh_name, fresh_name, hessian_regularization=DAMPING
    )
    scores = nn.Sequential(module.body, nn.Tanh(), module.scores)
    formula = Formula(scores, F.cross_entropy, x, y, DAMPING)
    exact: Any = formula.up(formula.factors(x, y), x, y).numpy()
    np.testing.assert_allclose(result.numpy(), exact, rtol=1e-7, atol=1e-10)
    with pytest.raises(InvalidRequest, match=r"no loss depends on 'size.weight', 'size.bias'"):
        online.compute_influences(fresh_name, fresh_name, fresh_name, hessian_regularization=0)
