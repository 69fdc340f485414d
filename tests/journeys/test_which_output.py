"""A model of several outputs: refused without a name for the loss's, right with it, through the whole service."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.journeys.formulas import Formula
from upweight import Client
from upweight.errors import InvalidRequest, Rejected

ROWS, DAMPING = 12, 1.0
X = torch.randn(ROWS, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
pytestmark = pytest.mark.filterwarnings("ignore")


class Two(nn.Module):
    """Features, and logits of them."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(4, 3), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features = self.body(x).tanh()
        return {"features": features, "logits": self.head(features)}


class Spread(nn.Module):
    """A mean and a variance."""

    def __init__(self) -> None:
        super().__init__()
        self.mean, self.spread = nn.Linear(4, 2), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.mean(x), F.softplus(self.spread(x))


def distance(client: Client, name: str, method: str, formula: Formula) -> float:
    result = client.compute_influences(
        name, name, name, test_rows="0:3", inversion_method=method, hessian_regularization=DAMPING,
        precision="float64",
    )  # fmt: skip
    x, y = formula.x, formula.y
    exact = formula.up(formula.factors(x[:3], y[:3]), x, y).numpy()
    return float(np.linalg.norm(result.numpy() - exact) / np.linalg.norm(exact))


def test_the_loss_takes_the_output_that_is_named(
    online: Client, fresh_name: str, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    module, y = Two().double().eval(), torch.arange(ROWS) % 3
    with pytest.raises(InvalidRequest, match=r"'features' float64 \(n, 3\), 'logits'") as caught:
        online.models.register(fresh_name, module, example=X[:2], loss="cross_entropy")
    assert [each.pointer for each in caught.value.errors] == ["/output"]
    with pytest.raises(
        InvalidRequest, match=r"count from 0, here to 1; .* 'logits' float64"
    ) as caught:
        online.models.register(fresh_name, module, example=X[:2], loss="cross_entropy", output=-1)
    assert [each.pointer for each in caught.value.errors] == ["/output"]
    batch = ({0: torch.export.Dim("batch")},)
    torch.export.save(
        torch.export.export(module, (X[:2],), dynamic_shapes=batch), tmp_path / "m.pt2"
    )
    with pytest.raises(InvalidRequest, match="-1 is no place: places count from 0"):
        online.models.register(fresh_name, tmp_path / "m.pt2", loss="cross_entropy", output=-1)
    with pytest.raises(Rejected, match="'logits' float64"):
        online.models.register(fresh_name, tmp_path / "m.pt2", loss="cross_entropy")
    record = online.models.register(
        fresh_name, module, example=X[:2], loss="cross_entropy", output="logits"
    )
    assert record.output == "logits"
    assert [(each.name, each.shape) for each in record.outputs] == [("logits", [None, 3])]
    online.datasets.register(fresh_name, x=X, y=y)
    formula = Formula(module, lambda out, goal: F.cross_entropy(out["logits"], goal), X, y, DAMPING)
    assert distance(online, fresh_name, "direct", formula) < 1e-6


def test_gaussian_nll_takes_a_mean_and_a_variance(online: Client, fresh_name: str) -> None:
    torch.manual_seed(0)
    module = Spread().double().eval()
    y = torch.randn(ROWS, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with pytest.raises(InvalidRequest, match="gaussian_nll"):
        online.models.register(fresh_name, module, example=X[:2], loss="mse", output=[0, 1])
    record = online.models.register(
        fresh_name, module, example=X[:2], loss="gaussian_nll", output=[0, 1]
    )
    assert [each.name for each in record.outputs] == ["0", "1"]
    online.datasets.register(fresh_name, x=X, y=y)
    formula = Formula(
        module, lambda out, goal: F.gaussian_nll_loss(out[0], goal, out[1]), X, y, DAMPING
    )
    for method in ("direct", "cg"):
        assert distance(online, fresh_name, method, formula) < 1e-6
