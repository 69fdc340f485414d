"""The precision that a job computes in: the model's own where it does not say, throughout the model's parts.

Held against the formula in float64, of a twin of the model that has no casts: tolerances say which precision it was.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.journeys.formulas import Formula
from upweight import Client

ROWS, DAMPING = 14, 2.0
IN_FLOAT64, IN_FLOAT32 = 1e-9, 2e-4  # of the largest number

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, in its Hessian


def off(found: np.ndarray, exact: Tensor) -> float:
    """The largest difference, relative to the largest number."""
    return float(np.abs(found - exact.numpy()).max() / exact.abs().max())


def computed(client: Client, name: str, **given: Any) -> Any:
    return client.compute_influences(
        name, name, name, test_rows="0:4", hessian_regularization=DAMPING, progress=False, **given
    )


class Clock(nn.Module):
    """A line over times in seconds since 1970, which float32 rounds to minutes."""

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(1, 1)

    def forward(self, seconds: Tensor) -> Tensor:
        return self.line((seconds - 1_700_000_000.0) / 1000)


@pytest.fixture(scope="module")
def clock(online: Client) -> tuple[str, Tensor]:
    """A registered float64 model with its data, and the influences by the formula."""
    torch.manual_seed(0)
    times = 1_700_000_000.0 + 3600 * torch.rand(ROWS, 1, dtype=torch.float64)
    values = torch.sin(times / 600 - 2_833_333.0)
    module = Clock().double()
    online.models.register("clock-of-precision", module, example=times[:2], loss="mse")
    online.datasets.register("clock-of-precision", x=times, y=values)
    formula = Formula(module, F.mse_loss, times, values, DAMPING)
    return "clock-of-precision", formula.up(formula.factors(times[:4], values[:4]), times, values)


@pytest.mark.parametrize("method", ["direct", "cg"])
def test_a_float64_model_is_computed_in_float64_unless_the_job_says_otherwise(
    online: Client, clock: tuple[str, Tensor], method: str
) -> None:
    name, exact = clock
    tight = {"rtol": 1e-12, "atol": 0.0} if method == "cg" else {}
    result = computed(online, name, inversion_method=method, **tight)
    assert off(result.numpy(), exact) < IN_FLOAT64
    assert result.dtype == np.float64
    assert result.job.request.precision == "float64"
    assert result.info["precision"] == "float64"
    assert "precision_note" not in result.info


def test_float32_on_a_float64_model_is_computed_as_asked_and_told(
    online: Client, clock: tuple[str, Tensor]
) -> None:
    result = computed(online, clock[0], precision="float32")
    assert result.dtype == np.float32
    assert "the model is in float64" in result.info["precision_note"]


def test_the_record_of_a_model_says_what_its_jobs_compute_in(
    online: Client, clock: tuple[str, Tensor]
) -> None:
    record = online.models.get(clock[0])
    assert (record.dtype, record.precision, record.precision_note) == ("float64", "float64", None)


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_a_model_in_half_precision_is_computed_in_float32_and_told(
    online: Client, fresh_name: str, half: torch.dtype
) -> None:
    torch.manual_seed(1)
    module = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3)).to(half)
    x = torch.randn(ROWS, 3).to(half).float()
    y = torch.arange(ROWS) % 3
    model = online.models.register(fresh_name, module, example=x[:2].to(half), loss="cross_entropy")
    online.datasets.register(fresh_name, x=x, y=y)
    assert (model.dtype, model.precision) == (str(half).removeprefix("torch."), "float32")
    double = x.double()
    formula = Formula(module, F.cross_entropy, double, y, DAMPING)
    exact = formula.up(formula.factors(double[:4], y[:4]), double, y)
    result = computed(online, fresh_name)
    assert off(result.numpy(), exact) < IN_FLOAT32
    assert "in half precision, computed in float32" in result.info["precision_note"]


class Mixed(nn.Module):
    """A trunk, and a head in another type; the twin for the formula casts nothing."""

    def __init__(self, between: torch.dtype | None, head: torch.dtype | None) -> None:
        super().__init__()
        self.trunk, self.head = nn.Linear(3, 4).to(between), nn.Linear(4, 3).to(head)
        self.between, self.cast = between, head

    def forward(self, x: Tensor) -> Tensor:
        if self.between is None:
            return self.head(torch.tanh(self.trunk(x)) @ torch.tril(torch.ones(4, 4).to(x.dtype)))
        hidden = torch.tanh(self.trunk(x.to(self.between))).to(self.cast)
        return self.head(hidden @ torch.tril(torch.ones(4, 4)).to(self.cast))


@pytest.mark.parametrize(
    ("trunk", "head", "own"),
    [
        (torch.float32, torch.float64, "float64"),
        (torch.bfloat16, torch.float32, "float32"),
    ],
)
def test_a_model_in_two_types_is_computed_in_the_wider_or_in_the_one_asked_for(
    online: Client, fresh_name: str, trunk: torch.dtype, head: torch.dtype, own: str
) -> None:
    torch.manual_seed(2)
    module, twin = Mixed(trunk, head), Mixed(None, None).double()
    twin.load_state_dict(module.state_dict())
    x, y = torch.randn(ROWS, 3), torch.arange(ROWS) % 3
    model = online.models.register(fresh_name, module, example=x[:2], loss="cross_entropy")
    online.datasets.register(fresh_name, x=x, y=y)
    assert model.precision == own
    double = x.double()
    formula = Formula(twin, F.cross_entropy, double, y, DAMPING)
    exact = formula.up(formula.factors(double[:4], y[:4]), double, y)
    assert computed(online, fresh_name).dtype == own
    for precision, bound in (("float64", IN_FLOAT64), ("float32", IN_FLOAT32)):
        assert off(computed(online, fresh_name, precision=precision).numpy(), exact) < bound
    tight = {"inversion_method": "cg", "rtol": 1e-9}
    result = computed(online, fresh_name, precision="float32", **tight)
    assert result.info["statuses"] == {"converged": 4}
    assert off(result.numpy(), exact) < IN_FLOAT32


def test_a_column_that_float32_cannot_tell_apart_is_named(
    online: Client, clock: tuple[str, Tensor], fresh_name: str
) -> None:
    torch.manual_seed(3)
    example = torch.ones(2, 1)
    online.models.register(fresh_name, Clock(), example=example, loss="mse")
    result = online.compute_influences(
        fresh_name, clock[0], clock[0], hessian_regularization=DAMPING, progress=False
    )
    assert result.dtype == np.float32
    assert "float32 rounds its values by up to 0.0" in result.info["precision_note"]
    wider = online.compute_influences(
        fresh_name, clock[0], clock[0], hessian_regularization=DAMPING, precision="float64",
        progress=False,
    )  # fmt: skip
    assert "precision_note" not in wider.info
