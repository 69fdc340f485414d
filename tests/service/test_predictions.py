"""Losses and predictions of a result's rows: by slice and sorted, across the blocks they are stored in."""

from __future__ import annotations

from typing import Any

import httpx2
import numpy as np
import pytest

from service.storage.layout import ResultPaths
from service.storage.tensors import tensor_bytes
from tests.service.acting import Acting, field, problem

M, N = 10, 7
RANDOM = np.random.default_rng(3)
TARGETS = RANDOM.integers(0, 3, M)
PREDICTED = RANDOM.integers(0, 3, M)
TEST = {
    "losses": RANDOM.random(M).astype("f4"),
    "predictions": PREDICTED,
    "targets": TARGETS,
    "errors": (PREDICTED != TARGETS).astype("f4"),
}
TRAIN = {"losses": np.array([1, 3, np.nan, 3, 0, 2, 3], "f4")}


class Rows:
    def __init__(self, acting: Acting) -> None:
        acting.ready()
        request = {
            "train": {"dataset": "train", "rows": "10:24:2"},
            "test": {"dataset": "test"},
            "keep": {"mean": True},
        }
        self.id = acting.job(**request)["id"]
        mean = np.zeros(N, "f4")
        acting.succeed(
            self.id, mean=mean, shape=[M, N], test_predictions=TEST, train_predictions=TRAIN
        )
        self._client = acting.client

    def __call__(self, **query: Any) -> httpx2.Response:
        return self._client.get(f"/v1/jobs/{self.id}/rows", params=query)

    def positions(self, **query: Any) -> list[int]:
        answer = self(**query)
        assert answer.status_code == 200, answer.text
        return [item["position"] for item in answer.json()["items"]]


@pytest.fixture
def rows(acting: Acting) -> Rows:
    return Rows(acting)


def test_at_positions_with_the_datasets_own_numbers(rows: Rows) -> None:
    answer = rows(rows="9,3:5").json()
    assert (answer["side"], answer["total"]) == ("test", M)
    for item, row in zip(answer["items"], (9, 3, 4), strict=True):
        assert item["row"] == item["position"] == row
        assert item["loss"] == pytest.approx(float(TEST["losses"][row]))
        assert (item["prediction"], item["target"]) == (PREDICTED[row], TARGETS[row])
        assert item["error"] == float(PREDICTED[row] != TARGETS[row])
    train = rows(side="train", rows="3").json()["items"][0]
    assert train == {
        "id": 16,
        "position": 3,
        "row": 16,
        "loss": 3.0,
        "prediction": None,
        "target": None,
        "error": None,
    }


def test_sorted_across_blocks_as_numpy_sorts(rows: Rows) -> None:
    losses = TEST["losses"]
    assert rows.positions() == list(range(M))
    assert rows.positions(sort="-position", limit=3) == [9, 8, 7]
    assert rows.positions(sort="-loss") == np.argsort(-losses).tolist()
    assert rows.positions(sort="loss", offset=2, limit=5) == np.argsort(losses)[2:7].tolist()
    wrong = np.lexsort((-losses, -TEST["errors"]))
    assert rows.positions(sort="-error", limit=6) == wrong[:6].tolist()
    assert rows.positions(sort="target") == np.lexsort((-losses, TARGETS)).tolist()
    assert rows.positions(sort="-loss", offset=M) == []


def test_equal_rows_come_by_position_and_nan_last(rows: Rows) -> None:
    assert rows.positions(side="train", sort="-loss") == [1, 3, 6, 5, 0, 4, 2]
    assert rows(side="train", rows="2").json()["items"][0]["loss"] is None


def test_each_block_may_hold_its_numbers_in_as_few_bytes_as_they_need(
    rows: Rows, acting: Acting
) -> None:
    paths = ResultPaths("default", rows.id)
    small = {"targets": np.array([1, 2, 0, 2], np.int8), "errors": np.array([0, 1, 1, 0], np.uint8)}
    large = {"targets": np.array([1, 300, 0, 2], np.int16), "errors": np.full(4, 0.5, "f4")}
    for start, block in ((0, small), (4, large)):
        named = {"losses": TEST["losses"][start : start + 4], **block}
        path = paths.predictions_block("test", start, start + 4)
        acting.parts.objects.put(path, tensor_bytes(named))
    items = rows(rows="5,1").json()["items"]
    assert [(item["target"], item["error"]) for item in items] == [(300, 0.5), (2, 1.0)]
    assert isinstance(items[0]["target"], int)


def test_what_is_not_there_is_said(rows: Rows, acting: Acting) -> None:
    said = problem(rows(side="train", sort="target"), 404, "not-stored")["detail"]
    assert "no single target" in said
    assert "are more than limit" in field(rows(rows="0:9", limit=5), "query:rows")
    assert "is not there" in field(rows(rows="10"), "query:rows")
    assert field(rows(sort="size"), "query:sort")
    id = acting.job()["id"]
    acting.succeed(id, mean=np.zeros(N, "f4"), shape=[M, N])
    problem(acting.client.get(f"/v1/jobs/{id}/rows"), 404, "not-stored")


def test_rows_are_ranked_by_their_influence_on_themselves(acting: Acting) -> None:
    acting.ready()
    request = {
        "kind": "self_influences", "model": "net", "train": {"dataset": "train"},
        "hessian_regularization": 0.1,
    }  # fmt: skip
    made = acting.post("/v1/jobs", {**request, "inversion": {"method": "direct"}}).json()
    values = np.array([0.5, 3.0, 1.0], "f4")
    acting.succeed(made["id"], self_influences=values, shape=[3])
    items = acting.client.get(f"/v1/jobs/{made['id']}/top").json()["items"]
    assert [(item["row"], item["influence"]) for item in items] == [(1, 3.0), (2, 1.0), (0, 0.5)]
