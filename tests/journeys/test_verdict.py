"""What a result is worth is told by the service, in the same words wherever it is looked at."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from service.local.background import Running
from tests.journeys.subjects import Subject
from tests.patience import PATIENCE
from upweight import Client, UntrustedResult


@pytest.fixture(scope="module")
def network(online: Client) -> tuple[str, str]:
    """Model and data whose Hessian one step of cg does not invert."""
    torch.manual_seed(3)
    net = torch.nn.Sequential(torch.nn.Linear(20, 16), torch.nn.Tanh(), torch.nn.Linear(16, 5))
    x = np.random.default_rng(3).normal(size=(200, 20)).astype("f4")
    online.models.register(
        "verdict-net", net, example=torch.from_numpy(x[:2]), loss="cross_entropy"
    )
    online.datasets.register("verdict-data", x=x, y=np.arange(200) % 5)
    return "verdict-net", "verdict-data"


def test_record_sdk_command_and_notebook_show_the_same_words(
    online: Client, iris: Subject, stack: Running
) -> None:
    result = online.compute_influences(*iris.names, hessian_regularization=iris.damping)
    verdict = result.verdict
    assert verdict is not None
    assert verdict.solved.level == "good"
    command = [sys.executable, "-m", "upweight.cli", "jobs", "show", result.id, "--json"]
    environment = {**os.environ, "UPWEIGHT_URL": stack.url}
    ended = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=True, timeout=PATIENCE
    )
    assert json.loads(ended.stdout)["verdict"] == verdict.model_dump(mode="json")
    for judgement in (verdict.solved, verdict.applies):
        assert judgement.text in result._repr_html_().replace("&#x27;", "'")


def test_influence_applies_at_the_optimum_of_the_training_loss(
    online: Client, iris: Subject
) -> None:
    result = online.compute_influences(
        *iris.names, hessian_regularization=iris.damping, precision="float64"
    )
    assert result.verdict is not None
    assert result.verdict.applies.level == "good", result.verdict.applies.text
    assert "eigenvalues of H" in result.verdict.applies.text


def test_an_untrained_model_is_warned_of(online: Client) -> None:
    torch.manual_seed(0)
    x = np.random.default_rng(0).normal(size=(60, 4)).astype("f4") + 2
    model = online.models.register(
        "untrained", torch.nn.Linear(4, 1), example=torch.from_numpy(x[:2]), loss="mse"
    )
    data = online.datasets.register("untrained", x=x, y=x @ np.ones((4, 1), "f4"))
    with pytest.warns(UntrustedResult, match="θ is not at an optimum"):
        result = online.compute_influences(model, data, data, hessian_regularization=0.1)
    assert result.verdict is not None
    assert (result.verdict.solved.level, result.verdict.applies.level) == ("good", "bad")


def test_one_step_of_cg_is_not_a_solution(online: Client, network: tuple[str, str]) -> None:
    model, data = network
    with pytest.warns(UntrustedResult, match="did not converge"):
        result = online.compute_influences(
            model, data, data, test_rows="0:9", inversion_method="cg", maxiter=1,
            hessian_regularization=1.0,
        )  # fmt: skip
    assert result.verdict is not None
    assert result.verdict.solved.level == "bad"


def test_spread_over_workers_the_verdict_is_the_same(online: Client, iris: Subject) -> None:
    told = []
    for blocks in ({}, {"spread": True, "rhs_rows": 7, "train_rows": 50}):
        result = online.compute_influences(
            *iris.names, inversion_method="cg", hessian_regularization=iris.damping,
            precision="float64", blocks=blocks, reuse=False,
        )  # fmt: skip
        assert result.verdict is not None
        told.append(result.verdict)
    assert told[0].applies.text.partition(". ")[0] == told[1].applies.text.partition(". ")[0]
    assert told[0].solved.level == told[1].solved.level == "good"


def test_factors_of_an_earlier_job_repeat_its_verdict(
    online: Client, network: tuple[str, str]
) -> None:
    model, data = network
    method = {"inversion_method": "cg", "maxiter": 1, "hessian_regularization": 1.0}
    with pytest.warns(UntrustedResult):
        factors = online.compute_influence_factors(model, data, data, test_rows="0:9", **method)
    with pytest.warns(UntrustedResult, match=factors.id):
        result = online.compute_influences(
            model, data, data, test_rows="0:9", factors=factors, **method
        )
    assert result.verdict is not None
    assert factors.verdict is not None
    assert result.verdict.solved.level == "bad"
    assert factors.verdict.solved.text in result.verdict.solved.text
