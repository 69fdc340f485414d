"""What can't be trained, through plain HTTP: refused by name, or failed in words with what was done kept."""

from __future__ import annotations

import time
from typing import Any

import httpx2
import numpy as np
import pytest
import torch
from safetensors.numpy import save
from torch import nn

from upweight import Client

ROWS = 24
RECIPE: dict[str, Any] = {"optimizer": "sgd", "lr": 0.1, "epochs": 3, "start": "warm"}
Body = dict[str, Any]


@pytest.fixture(scope="module")
def named(online: Client) -> str:
    """A softmax regression over three classes, and its rows."""
    torch.manual_seed(0)
    x = torch.randn(ROWS, 3)
    online.models.register(
        "refusing", nn.Linear(3, 3), example=x[:2], loss="cross_entropy", recipe=RECIPE
    )
    online.datasets.register("refusing-rows", x=x, y=torch.arange(ROWS) % 3)
    return "refusing"


def posted(http: httpx2.Client, named: str, **values: Any) -> httpx2.Response:
    body = {"kind": "retrain", "model": named, "train": {"dataset": f"{named}-rows"}, **values}
    return http.post("/v1/jobs", json=body)


def ended(http: httpx2.Client, answer: httpx2.Response) -> Body:
    job: Body = answer.raise_for_status().json()
    deadline = time.monotonic() + 120
    while job["finished_at"] is None:
        assert time.monotonic() < deadline, job
        job = http.get(f"/v1/jobs/{job['id']}").json()
        time.sleep(0.05)
    return job


def refused(answer: httpx2.Response, pointer: str, words: str) -> None:
    problem = answer.json()
    assert 400 <= answer.status_code < 500, problem
    told = {each["pointer"]: each["detail"] for each in problem["errors"]}
    assert any(where.startswith(pointer) for where in told), told
    assert any(words in each for each in told.values()), told


def test_a_training_that_is_no_number_in_epoch_k_says_so_and_keeps_the_epochs_before(
    http: httpx2.Client, named: str
) -> None:
    recipe = {**RECIPE, "lr": 1e3, "weight_decay": 1.0, "epochs": 60, "batch_size": ROWS}
    job = ended(http, posted(http, named, recipe=recipe))
    assert job["state"] == "failed"
    error = job["problem"]["errors"][0]
    assert error["pointer"] == "/recipe/lr"
    epoch = int(error["detail"].partition("in epoch ")[2].partition(",")[0])
    assert epoch > 1
    assert job["curve"]["epochs"] == list(range(1, epoch))
    assert all(loss is not None for loss in job["curve"]["train_loss"])
    again = http.post(f"/v1/jobs/{job['id']}/retry")
    assert again.status_code < 300, "what failed can be tried again"
    assert ended(http, again)["problem"]["errors"][0]["detail"] == error["detail"]


def test_labels_that_the_model_does_not_have_are_refused_after_deriving(
    http: httpx2.Client, online: Client, named: str, fresh_name: str
) -> None:
    refused(
        http.post(
            f"/v1/datasets/{named}-rows/derive", json={"name": fresh_name, "relabel": {"4": 7}}
        ),
        "/relabel/4",
        "7 is no label",
    )
    rows = {"x": torch.randn(ROWS, 3), "y": torch.arange(ROWS) % 3}
    known = online.datasets.register(fresh_name, **rows, class_names=list("abcdefgh"))
    view = online.datasets.derive(fresh_name, known, relabel={"4": 7})
    refused(posted(http, named, train={"dataset": view.id}), "/train", "7")


RECIPES: list[tuple[Body, str, str]] = [
    ({"learning_rate": 0.1}, "/recipe/learning_rate", "lr"),
    ({"optimizer": "sdg"}, "/recipe/optimizer", "sgd"),
    ({"lr": 0.0}, "/recipe/lr", "more than 0"),
    ({"lr": -1}, "/recipe/lr", "more than 0"),
    ({"epochs": 0}, "/recipe/epochs", "1"),
    ({"epochs": 10**18}, "/recipe/epochs", "at most"),
    ({"epochs": 2.5}, "/recipe/epochs", "whole"),
    ({"batch_size": 0}, "/recipe/batch_size", "1"),
    ({"momentum": 1.0}, "/recipe/momentum", "less than 1"),
    ({"weight_decay": -0.1}, "/recipe/weight_decay", "0"),
    ({"schedule": "cosin"}, "/recipe/schedule", "cosine"),
    ({"schedule": {"name": "step", "epochs": 1, "gamma": 1e200}}, "/recipe/schedule", "1"),
    ({"schedule": {"name": "cosine", "final": 9.0}}, "/recipe", "above 'lr'"),
    ({"nesterov": True}, "/recipe", "'nesterov' needs a 'momentum'"),
    ({"betas": [0.9, 0.99]}, "/recipe", "belongs to optimizer"),
    ({"optimizer": "lbfgs", "batch_size": 4}, "/recipe", "all rows at once"),
    ({"start": "cold"}, "/recipe/start", "warm"),
    ({"start": "initial"}, "/recipe/start", "initial"),
    ({"seed": -1}, "/recipe/seed", "0"),
]


@pytest.mark.parametrize(("changes", "pointer", "words"), RECIPES, ids=[str(r[0]) for r in RECIPES])
def test_a_recipe_with_unknown_fields_or_absurd_values_is_refused_by_name(
    http: httpx2.Client, named: str, changes: Body, pointer: str, words: str
) -> None:
    refused(posted(http, named, recipe={**RECIPE, **changes}), pointer, words)


GIVEN: list[tuple[dict[str, Any], Body, str, str]] = [
    (
        {"rows": [1, 2]},
        {"train": {"dataset": "refusing-rows", "rows": "0:9"}},
        "/given",
        "one place",
    ),
    ({"weights": [1.0, 2.0], "weight_rows": [3, 3]}, {}, "/given", "row 3 2 times"),
    ({"weights": [1.0], "weight_rows": [3, 4]}, {}, "/given", "1 entries"),
    ({"weights": [2.0], "weight_rows": [3]}, {"drop": "3"}, "/drop", "row 3 is dropped"),
    ({"labels": [2], "label_rows": [5]}, {"drop": "0:9"}, "/drop", "row 5 is dropped"),
    ({"labels": [2, 1], "label_rows": [5, 5]}, {}, "/given", "row 5 2 times"),
    ({"weights": [0.0] * ROWS}, {}, "/given", "has weight 0"),
    ({"weights": [float("nan")] * ROWS}, {}, "/given", "finite"),
    ({"drop": list(range(ROWS))}, {}, "/drop", "none of the 24 chosen rows is left"),
    ({"drop": [ROWS]}, {}, "/given", "there are 24 rows"),
    ({"wieghts": [1.0] * ROWS}, {}, "/given", "no use for 'wieghts'"),
]


@pytest.mark.parametrize(
    ("arrays", "body", "pointer", "words"), GIVEN, ids=[f"{g[0].keys()}, {g[3]}" for g in GIVEN]
)
def test_rows_weights_and_labels_that_contradict_each_other_are_refused(
    http: httpx2.Client, online: Client, named: str,
    arrays: dict[str, Any], body: Body, pointer: str, words: str,
) -> None:  # fmt: skip
    given = online.blobs.put(save({name: np.asarray(each) for name, each in arrays.items()})).digest
    refused(posted(http, named, given=given, **body), pointer, words)


@pytest.mark.parametrize(
    ("train", "pointer"), [({"rows": "0:0"}, "/train/rows"), ({"rows": "3,3"}, "/train/rows")]
)
def test_no_row_and_a_row_twice_are_refused(
    http: httpx2.Client, named: str, train: Body, pointer: str
) -> None:
    refused(posted(http, named, train={"dataset": f"{named}-rows", **train}), pointer, "row")
