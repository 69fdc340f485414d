"""An index by a random projection, from training rows to answers, beside influences written out by hand in float64."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from torch import nn

from tests.engine import decoder
from tests.journeys.problems import refused
from tests.journeys.test_indexes import (
    ASKED,
    DAMPING,
    EMPIRICAL,
    ROWS,
    K,
    held,
    influences,
    registered,
    rows,
)
from upweight import Client, errors
from upweight.cli.command import command
from upweight.cli.exits import run
from upweight.results import IndexResult

NAME = "projected"
OPTIONS: dict[str, Any] = {"curvature": EMPIRICAL, "hessian_regularization": DAMPING}


@pytest.fixture(scope="module")
def net(online: Client) -> nn.Module:
    return registered(online, NAME)


@pytest.fixture(scope="module")
def index(net: nn.Module, online: Client) -> IndexResult:
    """One that keeps 12 of 36 and of 21 numbers."""
    return online.indexes.create("projected", NAME, NAME, 12, projection="random", **OPTIONS).wait()


def by_numbers(index: IndexResult) -> list[list[tuple[int, float]]]:
    """Of some rows, by the index's numbers alone."""
    x, y = rows(ASKED, seed=18)
    return [
        [(each.row, each.influence) for each in one.helpful]
        for one in index.query(x=x, y=y, k=K, candidates=0)
    ]


def test_its_candidates_are_scored_exactly(net: nn.Module, index: IndexResult) -> None:
    """By EK-FAC of whole gradients, whatever the numbers are."""
    x, y = rows(ASKED, seed=18)
    held(index.query(x=x, y=y, k=K, candidates=2 * ROWS), influences(net, (x, y)))


def test_it_tells_what_the_projection_costs(index: IndexResult) -> None:
    told = index.job.info["index"]
    assert told["projection"] == "random"
    assert [(each["parameters"], each["sides"], each["numbers"]) for each in told["layers"]] == [
        (36, [3, 4], 12),
        (21, [3, 4], 12),
    ]
    assert told["numbers"] == 24
    assert 0.0 < told["recall"] < 1.0
    assert told["recall"] <= told["recall_after_rerank"]


def test_where_nothing_is_cut_its_numbers_alone_are_exact(net: nn.Module, online: Client) -> None:
    """Up to half precision."""
    whole = online.indexes.create(None, NAME, NAME, projection="random", **OPTIONS).wait()
    assert whole.job.info["index"]["numbers"] == 57
    exact = influences(net, rows(ASKED, seed=18))
    for one, wanted in zip(by_numbers(whole), exact, strict=True):
        found = [value for _, value in one]
        assert found == pytest.approx(wanted.topk(K).values.tolist(), rel=0.01, abs=0.01)


def test_many_blocks_have_the_numbers_of_one(index: IndexResult, online: Client) -> None:
    """All workers take the projection that the first has drawn."""
    blocks = {"train_rows": 7, "hessian_rows": 16, "spread": True}
    spread = online.indexes.create(
        None, NAME, NAME, 12, projection="random", blocks=blocks, **OPTIONS
    ).wait()
    assert spread.job.plan is not None
    for one, other in zip(by_numbers(spread), by_numbers(index), strict=True):
        assert [row for row, _ in one] == [row for row, _ in other]
        wanted = [value for _, value in other]
        assert [value for _, value in one] == pytest.approx(wanted, rel=0.01, abs=0.01)


def test_its_curvature_is_of_the_rows_that_are_asked_for(online: Client, net: nn.Module) -> None:
    some = {"dataset": NAME, "rows": "0:40"}
    made = online.indexes.create(
        None, NAME, NAME, 12, projection="random", hessian_on=some, **OPTIONS
    ).wait()
    x, y = rows(ASKED, seed=18)
    held(made.query(x=x, y=y, k=K, candidates=2 * ROWS), influences(net, (x, y), count=40))


def test_sequences_are_projected_token_by_token(online: Client, fresh_name: str) -> None:
    tokens, targets = decoder.texts(12)
    loss = {"name": "cross_entropy", "class_axis": -1}
    online.models.register(fresh_name, decoder.decoder(), example=tokens[:2], loss=loss)
    online.datasets.register(fresh_name, x=tokens, y=targets)
    made = online.indexes.create(
        None, fresh_name, fresh_name, 8, projection="random", **OPTIONS
    ).wait()
    told = made.job.info["index"]["layers"]
    assert {each["layer"] for each in told if "gradient_formed" in each} == {"norm"}
    assert {each["layer"] for each in told} == {"embedding", "mixed", "inner", "norm", "head"}
    job = online.compute_influences(
        fresh_name, fresh_name, fresh_name, test_rows="3", inversion_method="ekfac", **OPTIONS
    )
    (found,) = made.query(test={"dataset": fresh_name, "rows": "3"}, k=3, candidates=24)
    best = job.influences[0].argsort()[::-1][:3]
    assert [each.row for each in found.helpful] == best.tolist()
    wanted = job.influences[0][best]
    assert [each.influence for each in found.helpful] == pytest.approx(wanted, rel=1e-4)


def test_the_seed_draws_another_one(index: IndexResult, online: Client) -> None:
    random = {"method": "random", "seed": 7}
    other = online.indexes.create(None, NAME, NAME, 12, projection=random, **OPTIONS).wait()
    again = online.indexes.create(
        None, NAME, NAME, 12, projection="random", seed=7, **OPTIONS
    ).wait()
    assert by_numbers(other) == by_numbers(again)
    assert by_numbers(other) != by_numbers(index)


def test_new_rows_are_projected_as_the_earlier_ones_were(
    net: nn.Module, online: Client, tmp_path: Path
) -> None:
    (x, y), shards = rows(), []
    for number, here in enumerate((slice(0, 40), slice(40, 60))):
        np.savez(tmp_path / f"{number}.npz", x=x[here].float().numpy(), y=y[here].numpy())
        shards.append(tmp_path / f"{number}.npz")
    fields: Any = {"inputs": ["x"], "targets": ["y"]}
    first = online.datasets.register("projected-growing", shards[:1], **fields)
    before = online.indexes.create(
        None, NAME, first, 12, projection="random", seed=3, **OPTIONS
    ).wait()
    grown = online.datasets.register("projected-growing", shards, **fields)
    after = online.indexes.create(None, NAME, grown, extends=before).wait()
    assert after.job.request.projection == before.job.request.projection
    assert after.job.cost.gradient_passes == pytest.approx(20 / 60)
    shared = 0
    for earlier, later in zip(
        map(dict, by_numbers(before)), map(dict, by_numbers(after)), strict=True
    ):
        both = earlier.keys() & later.keys()
        shared += len(both)
        assert [later[row] for row in both] == pytest.approx([earlier[row] for row in both])
    assert shared
    asked = rows(ASKED, seed=18)
    held(after.query(x=asked[0], y=asked[1], k=K), influences(net, asked, count=40))
    with pytest.raises(errors.InvalidRequest, match="random"):
        online.indexes.create(None, NAME, grown, projection="eigenvectors", extends=before)


def test_the_command_makes_the_same(
    net: nn.Module, online: Client, http: httpx2.Client, fresh_name: str,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("UPWEIGHT_URL", str(http.base_url))
    capsys.readouterr()
    options = ("--dimension", "12", "--projection", "random", "--seed", "7")
    asked = ("indexes", "create", fresh_name, NAME, NAME, *options)
    assert not run(command, (*asked, "--curvature", EMPIRICAL, "--lambda", str(DAMPING)))
    out = capsys.readouterr()
    assert "24 numbers a row in float16, a random projection" in out.out + out.err
    found = online.indexes.get(fresh_name)
    wanted = online.indexes.create(
        None, NAME, NAME, 12, projection="random", seed=7, **OPTIONS
    ).wait()
    assert by_numbers(found) == by_numbers(wanted)


def test_what_it_can_t_be_is_refused_in_words(net: nn.Module, http: httpx2.Client) -> None:
    train = {"dataset": NAME}
    for fields, pointer, words in [
        ({"projection": "random", "dimension": 5000}, "", "at most 4096"),
        ({"projection": "sparse"}, "/projection", "random"),
        ({"projection": {"method": "random", "seed": -1}}, "/projection/seed", "0"),
        ({"projection": {"method": "eigenvectors", "seed": 1}}, "/projection/seed", "seed"),
    ]:
        body = {"kind": "index", "model": NAME, "train": train, **fields}
        answer = http.post("/v1/jobs", json=body)
        detail = refused(answer, 422, "invalid-request")
        (error, *_) = answer.json()["errors"]
        assert error["pointer"] == pointer
        assert words in detail + json.dumps(answer.json()["errors"])
