"""An index, from training rows to answers: held against influences written out by hand in float64."""

from __future__ import annotations

import asyncio
import io
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from demo.serving import serving
from service.storage.layout import ResultPaths
from service.storage.objects import Objects
from tests.engine.curvature import kronecker_by_hand as by_hand
from tests.journeys.problems import refused
from upweight import AsyncClient, Client, errors
from upweight.results import IndexResult, asking

ROWS, ASKED, K, NAME, DAMPING = 60, 5, 4, "indexed", 0.03
EMPIRICAL = "empirical_fisher"


def registered(online: Client, name: str) -> nn.Module:
    """A small network, registered with its rows; in float64 afterwards."""
    torch.manual_seed(17)
    net = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3)).eval()
    online.models.register(name, net, example=rows(2)[0].float(), loss="cross_entropy")
    x, y = rows()
    online.datasets.register(name, x=x.float(), y=y)
    return net.double()


@pytest.fixture(scope="module")
def net(online: Client) -> nn.Module:
    return registered(online, NAME)


@pytest.fixture(scope="module")
def index(net: nn.Module, online: Client) -> IndexResult:
    """One that keeps every number."""
    made = online.indexes.create(
        "whole", NAME, NAME, curvature=EMPIRICAL, hessian_regularization=DAMPING
    )
    return made.wait()


def rows(count: int = ROWS, seed: int = 17) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 5, generator=generator).double()
    return x, torch.randint(0, 3, (count,), generator=generator)


def gradients(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """(n, p), each layer's as (out, in + 1) with the bias in the last column."""
    found = []
    for one, label in zip(x, y, strict=True):
        net.zero_grad()
        F.cross_entropy(net(one[None]), label[None]).backward()
        found.append(
            torch.cat(
                [
                    torch.cat([layer.weight.grad, layer.bias.grad[:, None]], 1).flatten()
                    for layer in (net[0], net[2])
                ]
            )
        )
    return torch.stack(found)


def influences(net: Any, asked: tuple[Tensor, Tensor], count: int = ROWS) -> Tensor:
    """(asked, n) with EK-FAC of the empirical Fisher matrix over the first rows, by hand."""
    x, y = rows()
    own, theirs = gradients(net, *asked), gradients(net, x, y)
    total, first = torch.zeros(len(own), len(theirs)).double(), 0
    for layer in (net[0], net[2]):
        columns = [
            by_hand.tokens_of(
                net, layer, one[None], lambda f, label=label: F.cross_entropy(f, label[None])
            )
            for one, label in zip(x[:count], y[:count], strict=True)
        ]
        block = by_hand.ekfac(columns)
        here = slice(first, first + len(block))
        first += len(block)
        damped = block + DAMPING * torch.eye(len(block)).double()
        total += own[:, here] @ torch.linalg.solve(damped, theirs[:, here].T)
    return total


def held(found: Any, exact: Tensor, k: int = K) -> None:
    """The answers are the rows of the largest and smallest influences, with these."""
    assert len(found) == len(exact)
    for one, wanted in zip(found, exact, strict=True):
        for sign, ranked in (("helpful", wanted.topk(k)), ("harmful", (-wanted).topk(k))):
            items = getattr(one, sign)
            assert [each.row for each in items] == ranked.indices.tolist()
            values = torch.tensor([each.influence for each in items]).double()
            assert torch.allclose(values, wanted[ranked.indices], rtol=1e-3, atol=1e-4)


def test_its_answers_are_the_strongest_influences(net: nn.Module, index: IndexResult) -> None:
    x, y = rows(ASKED, seed=18)
    held(index.query(x=x, y=y, k=K), influences(net, (x, y)))


def test_where_nothing_is_cut_its_numbers_alone_say_the_same(
    net: nn.Module, index: IndexResult
) -> None:
    """Up to half precision."""
    x, y = rows(ASKED, seed=18)
    exact = influences(net, (x, y))
    for one, wanted in zip(index.query(x=x, y=y, k=K, candidates=0), exact, strict=True):
        found = torch.tensor([each.influence for each in one.helpful]).double()
        assert torch.allclose(found, wanted.topk(K).values, rtol=0.01, atol=0.01)


def test_it_says_the_same_as_a_job_with_its_curvature(index: IndexResult, online: Client) -> None:
    job = online.compute_influences(
        NAME, NAME, NAME, test_rows="7", inversion_method="ekfac", curvature=EMPIRICAL,
        hessian_regularization=DAMPING,
    )  # fmt: skip
    (found,) = index.query(test={"dataset": NAME, "rows": "7"}, k=1)
    assert found.helpful[0].row == int(np.argmax(job.influences[0]))
    assert found.helpful[0].influence == pytest.approx(float(job.influences[0].max()), rel=1e-4)


@pytest.mark.parametrize("structure", ["kfac", "layers", "diagonal", "identity"])
def test_every_structure_in_closed_form_can_be_indexed(
    structure: str, net: nn.Module, online: Client
) -> None:
    options: Any = {"curvature": {"kind": EMPIRICAL, "structure": structure}}
    made = online.indexes.create(None, NAME, NAME, hessian_regularization=DAMPING, **options).wait()
    job = online.compute_influences(
        NAME, NAME, NAME, test_rows="3", inversion_method="direct", hessian_regularization=DAMPING,
        **options,
    )  # fmt: skip
    for candidates in (0, 60):
        (found,) = made.query(test={"dataset": NAME, "rows": "3"}, k=1, candidates=candidates)
        best = float(job.influences[0].max())
        assert found.helpful[0].influence == pytest.approx(
            best, rel=0.01 if not candidates else 1e-4
        )


def test_one_row_may_be_given_without_an_axis(index: IndexResult) -> None:
    x, y = rows(1, seed=18)
    (alone,) = index.query(x=x[0].tolist(), y=int(y[0]), k=K)
    (beside,) = index.query(columns={"x": x, "y": y}, k=K)
    assert alone == beside


def test_a_cut_index_tells_what_the_cut_costs(net: nn.Module, online: Client) -> None:
    """And finds the same after its candidates are scored exactly, if these are enough."""
    made = online.indexes.create(
        "cut", NAME, NAME, 4, curvature=EMPIRICAL, hessian_regularization=DAMPING
    ).wait()
    told = made.job.info["index"]
    assert told["numbers"] == 8
    assert [each["parameters"] for each in told["layers"]] == [36, 21]
    assert sum(each["numbers"] for each in told["layers"]) == 8
    assert 0.3 < told["recall"] < 1.0
    assert told["recall"] <= told["recall_after_rerank"]
    assert 0.5 < told["rank_correlation"] < 1.0
    x, y = rows(ASKED, seed=18)
    exact = influences(net, (x, y))
    held(made.query(x=x, y=y, k=K, candidates=2 * ROWS), exact)
    cut = [[each.row for each in one.helpful] for one in made.query(x=x, y=y, k=K, candidates=0)]
    assert cut != exact.topk(K).indices.tolist()


def test_numbers_in_eight_bits_take_half_and_tell_what_that_costs(
    net: nn.Module, index: IndexResult, online: Client, stored: Objects
) -> None:
    """Scored exactly the answers are the same; by the numbers alone they are near."""
    options: Any = {"curvature": EMPIRICAL, "hessian_regularization": DAMPING}
    made = online.indexes.create(
        None, NAME, NAME, stored_as="int8", blocks={"train_rows": 25, "spread": True}, **options
    ).wait()
    x, y = rows(ASKED, seed=18)
    exact = influences(net, (x, y))
    held(made.query(x=x, y=y, k=K), exact)
    for one, wanted in zip(made.query(x=x, y=y, k=K, candidates=0), exact, strict=True):
        found = torch.tensor([each.influence for each in one.helpful]).double()
        assert torch.allclose(found, wanted.topk(K).values, rtol=0.03, atol=0.03)
    told, half = made.job.info["index"], index.job.info["index"]
    assert (told["stored_as"], half["stored_as"]) == ("int8", "float16")
    assert 0.9 < told["recall"] <= half["recall"] == 1.0
    assert told["recall_after_rerank"] == 1.0

    def size(of: IndexResult) -> int:
        folder = ResultPaths("default", of.id).index_numbers
        return sum(each.size for each in stored.walk(f"{folder}/c/"))

    assert size(index) == 2 * ROWS * 57
    assert size(made) == 75 * 57  # three chunks of 25 rows, the last one filled up
    grown = online.indexes.create(None, NAME, NAME, extends=made).wait()
    assert grown.job.request.stored_as == "int8"
    held(grown.query(x=x, y=y, k=K), exact)
    with pytest.raises(errors.InvalidRequest, match="has 'int8'"):
        online.indexes.create(None, NAME, NAME, stored_as="float16", extends=made)
    with pytest.raises(errors.InvalidRequest, match="float16"):
        online.indexes.create(None, NAME, NAME, stored_as="int4")


def test_an_index_in_many_blocks_has_the_same_numbers(
    net: nn.Module, index: IndexResult, online: Client
) -> None:
    spread = online.indexes.create(
        None, NAME, NAME, curvature=EMPIRICAL, hessian_regularization=DAMPING,
        blocks={"train_rows": 7, "hessian_rows": 16, "spread": True},
    ).wait()  # fmt: skip
    assert spread.job.plan is not None
    x, y = rows(ASKED, seed=18)
    held(spread.query(x=x, y=y, k=K), influences(net, (x, y)))
    told, alone = spread.job.info["index"], index.job.info["index"]
    assert told["rank_correlation"] == pytest.approx(alone["rank_correlation"], rel=1e-3)


def test_new_rows_alone_are_computed_where_it_extends_another(
    net: nn.Module, online: Client, tmp_path: Path
) -> None:
    """With the eigenvectors of the earlier rows, which the influences are then by."""
    (x, y), shards = rows(), []
    for number, here in enumerate((slice(0, 40), slice(40, 60))):
        np.savez(tmp_path / f"{number}.npz", x=x[here].float().numpy(), y=y[here].numpy())
        shards.append(tmp_path / f"{number}.npz")
    fields: Any = {"inputs": ["x"], "targets": ["y"]}
    first = online.datasets.register("growing", shards[:1], **fields)
    before = online.indexes.create(
        "growing", NAME, first, curvature=EMPIRICAL, hessian_regularization=DAMPING
    ).wait()
    grown = online.datasets.register("growing", shards, **fields)
    after = online.indexes.create("growing", NAME, grown, extends="growing").wait()
    assert after.job.request.extends == before.id
    assert after.job.cost.gradient_passes == pytest.approx(20 / 60)
    assert after.job.request.hessian_regularization == DAMPING
    asked = rows(ASKED, seed=18)
    held(after.query(x=asked[0], y=asked[1], k=K), influences(net, asked, count=40))
    with pytest.raises(errors.InvalidRequest, match="not known to be those"):
        online.indexes.create(None, NAME, NAME, extends=before)
    with pytest.raises(errors.InvalidRequest, match="has 512"):
        online.indexes.create(None, NAME, grown, 3, extends=before)


def test_an_async_client_asks_the_same(index: IndexResult, online: Client) -> None:
    x, y = rows(2, seed=18)

    async def found() -> Any:
        async with AsyncClient(online.connection.url) as client:
            named = await client.indexes.get("whole")
            listed = [each.id async for each in client.indexes.list(model=NAME)]
            return named.id, listed, await named.query(x=x, y=y, k=K)

    id, listed, answers = asyncio.run(found())
    assert id == index.id
    assert id in listed
    assert answers == index.query(x=x, y=y, k=K)


def test_what_can_t_be_asked_is_told_by_column_and_row(
    index: IndexResult, http: httpx2.Client
) -> None:
    path, good = f"/v1/indexes/{index.id}/query", {"x": [[0.0] * 5], "y": [1]}
    for columns, pointer, words in [
        ({"x": [[0.0] * 4], "y": [1]}, "/columns/x/0", "shape (4,); it must be (5,)"),
        ({"x": [[0.0] * 5, [0.0]], "y": [1, 1]}, "/columns/x/1", "row 1"),
        ({"x": [["a"] * 5], "y": [1]}, "/columns/x/0", "must be numbers"),
        ({"x": [[0.0] * 4 + [None]], "y": [1]}, "/columns/x/0", "null, or NaN or Inf"),
        (
            {"x": [[0.0] * 4 + [1e39]], "y": [1]},
            "/columns/x/0",
            "1e+39, and the index is in float32",
        ),
        ({"x": [[0.0] * 5], "y": [0.5]}, "/columns/y/0", "whole numbers"),
        ({"x": [[0.0] * 5], "y": [3]}, "/columns", "label 3"),
        ({"x": [[0.0] * 5]}, "/columns", "'y' is missing"),
        ({**good, "z": [1]}, "/columns/z", "no column 'z'"),
    ]:
        answer = http.post(path, json={"columns": columns})
        assert words in refused(answer, 422, "invalid-request", pointer)
    answer = http.post(path, json={"columns": good, "k": 20, "candidates": 30})
    assert "at least 40" in refused(answer, 422, "invalid-request")
    answer = http.post(path, json={"test": {"dataset": NAME}, "columns": good})
    assert "rows of a dataset" in refused(answer, 422, "invalid-request")


def test_what_is_wrong_in_the_address_is_told_by_its_parameter(
    index: IndexResult, http: httpx2.Client
) -> None:
    path = f"/v1/indexes/{index.id}/query"
    for address, status, pointer, words in [
        ({"test": NAME, "rows": "99"}, 422, "query:rows", "99"),
        ({"test": NAME, "rows": "1:x"}, 422, "query:rows", "not a row or a slice"),
        ({"test": NAME, "rows": "5:5"}, 422, "query:rows", "chooses no row"),
        ({"test": "nowhere", "rows": "0"}, 404, "query:test", "nowhere"),
        ({"test": NAME, "rows": "0", "model": "nobody"}, 404, "query:model", "nobody"),
    ]:
        answer = http.get(path, params=address)
        assert answer.status_code == status
        (error,) = answer.json()["errors"]
        assert error["pointer"] == pointer
        assert words in error["detail"]


def npz(save: Any = np.savez, **columns: Any) -> bytes:
    body = io.BytesIO()
    save(body, **columns)
    return body.getvalue()


def asked_by_npz(http: httpx2.Client, index: IndexResult, body: bytes, **address: Any) -> Any:
    return http.post(
        f"/v1/indexes/{index.id}/query", content=body, params=address,
        headers={"Content-Type": "application/x-npz"},
    )  # fmt: skip


def test_rows_may_be_the_arrays_of_an_npz(index: IndexResult, http: httpx2.Client) -> None:
    """With what JSON has beside the rows in the address."""
    x, y = rows(3, seed=18)
    body = {"columns": {"x": x.tolist(), "y": y.tolist()}, "k": 4, "candidates": 30, "model": NAME}
    wanted = http.post(f"/v1/indexes/{index.id}/query", json=body).json()
    answer = asked_by_npz(http, index, npz(x=x, y=y), k=4, candidates=30, model=NAME)
    assert answer.status_code == 200
    assert answer.json()["rows"] == wanted["rows"]
    narrow = npz(x=x.float(), y=y.to(torch.int16))
    answer = asked_by_npz(http, index, narrow, k=4, candidates=30)
    found, exact = ([one["helpful"] for one in each["rows"]] for each in (answer.json(), wanted))
    assert [[each["row"] for each in one] for one in found] == [
        [each["row"] for each in one] for one in exact
    ]


def test_an_npz_that_can_t_be_asked_is_told_in_words(
    index: IndexResult, http: httpx2.Client
) -> None:
    x, y = np.zeros((1, 5)), np.array([1])
    many = np.random.default_rng(0).integers(0, 2, (1, 3_000_000)).astype(float)
    for body, address, pointer, words in [
        (b"PK nothing", {}, "", "the body is no npz"),
        (npz(x=x, y=y)[:-30], {}, "", "the body is no npz"),
        (npz(x=x, y=np.array([object()])), {}, "", "Python objects"),
        (npz(x=x, y=np.array(["a"])), {}, "/columns/y", "array 'y' is of <U1"),
        (npz(x=x, y=np.array(1)), {}, "/columns/y", "array 'y' is one number"),
        (npz(np.savez_compressed, x=many, y=y), {}, "", "at most 16777216"),
        (npz(np.savez_compressed, x=0 * many, y=y), {}, "", "claims to unpack to"),
        (npz(x=np.zeros((65, 5)), y=y), {}, "/columns/x", "at most 64"),
        (npz(x=np.zeros((2, 5)), y=y), {}, "", "different numbers of rows"),
        (npz(x=np.zeros((1, 4)), y=y), {}, "/columns/x/0", "shape (4,); it must be (5,)"),
        (npz(x=np.full((1, 5), np.nan), y=y), {}, "/columns/x/0", "has NaN or Inf"),
        (
            npz(x=x, y=np.array([2.0**63])),
            {},
            "/columns/y/0",
            "has 9.223372036854776e+18, and int64",
        ),
        (npz(x=x, y=y, z=y), {}, "/columns/z", "no column 'z'"),
        (npz(x=x, y=y), {"k": 0}, "query:k", "at least 1"),
        (npz(x=x, y=y), {"k": 20, "candidates": 30}, "query:", "at least 40"),
    ]:
        answer = asked_by_npz(http, index, body, **address)
        assert words in refused(answer, 422, "invalid-request", pointer)
    both = http.post(
        f"/v1/indexes/{index.id}/query", params={"k": 3},
        json={"columns": {"x": x.tolist(), "y": [1]}, "k": 4},
    )  # fmt: skip
    assert "give it once" in refused(both, 422, "invalid-request", "query:k")
    large = asked_by_npz(http, index, npz(x=np.zeros((64, 10_000)), y=y))
    assert "ask for less at a time" in refused(large, 413, "too-large")
    for kind, words in (("application/x-npy", "send an npz"), ("text/csv", "or an npz")):
        answer = http.post(
            f"/v1/indexes/{index.id}/query", content=b"a", headers={"Content-Type": kind}
        )
        assert words in refused(answer, 415, "unsupported-media-type")


def test_the_sdk_sends_arrays_as_they_are_and_many_in_parts(
    index: IndexResult, online: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of tensors, arrays and lists the answers are the same; a column may have any name."""
    x, y = rows(7, seed=18)
    wanted = index.query(x=x.tolist(), y=y.tolist(), k=K)
    calls: list[bytes] = []
    npz_of = asking._npz
    monkeypatch.setattr(asking, "_npz", lambda columns: calls.append(npz_of(columns)) or calls[-1])
    assert index.query(x=x, y=y.tolist(), k=K) == wanted
    assert len(calls) == 1
    monkeypatch.setattr(asking, "BODY_BYTES", 3 * (5 * 8 + 8))
    found = index.query(x=x.numpy(), y=y.numpy(), k=K)
    assert len(calls) == 4
    for one, whole in zip(found, wanted, strict=True):
        assert [each.row for each in one.helpful] == [each.row for each in whole.helpful]
    with pytest.raises(errors.InvalidRequest, match="no column 'file'"):
        index.query(columns={"file": x, "y": y})


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_row_that_is_not_finite_is_refused(index: IndexResult, bad: float) -> None:
    x = np.zeros((2, 5))
    x[1, 3] = bad
    with pytest.raises(errors.InvalidRequest, match="row 1 of column 'x' has NaN or Inf"):
        index.query(x=x, y=[0, 1])


def test_the_rows_of_a_dataset_are_chosen_as_a_jobs_are(index: IndexResult, online: Client) -> None:
    record = online.datasets.get(NAME)
    wanted = index.query(test={"dataset": NAME, "rows": "3:5"}, k=K)
    for test in (NAME, record, {"dataset": record}):
        assert index.query(test=test, test_rows=[3, 4], k=K) == wanted
    with pytest.raises(errors.InvalidRequest, match="give the dataset, too"):
        index.query(test_rows=[3], k=K)


def test_a_token_that_the_model_has_not_is_refused(online: Client, words: Any) -> None:
    made = online.indexes.create(None, words.name, words.train, hessian_regularization=0.1).wait()
    record = online.datasets.get(words.train)
    (tokens,) = (each for each in record.columns if each.name in record.inputs)
    row = np.full((1, *[int(size) for size in tokens.shape]), 10_000)
    target = np.zeros((1, *[int(s) for s in record.columns[-1].shape]))
    with pytest.raises(errors.InvalidRequest, match="vocabulary"):
        made.query(columns={record.inputs[0]: row, record.targets[0]: target})


def test_an_index_of_an_earlier_version_is_refused_with_the_way_out(online: Client) -> None:
    torch.manual_seed(1)
    x, y = rows(12)
    data = online.datasets.register("stale", x=x.float(), y=y)
    for _ in range(2):
        net = nn.Linear(5, 3)
        online.models.register("stale", net, example=x[:2].float(), loss="cross_entropy")
        if _ == 0:
            made = online.indexes.create("stale", "stale", data).wait()
    with pytest.raises(errors.Conflict, match="'stale@1', if that version is meant"):
        made.query(x=x[0], y=y[0])
    (found,) = made.query(x=x[0], y=y[0], k=2, candidates=4, model="stale@1")
    assert len(found.helpful) == 2
    online.indexes.delete("stale")
    with pytest.raises(errors.NotFound):
        made.query(x=x[0], y=y[0], model="stale@1")


def test_what_is_no_index_and_what_can_t_be_one_is_refused(
    net: nn.Module, online: Client, http: httpx2.Client
) -> None:
    job = online.self_influences(NAME, NAME, hessian_regularization=1.0)
    answer = http.post(
        f"/v1/indexes/{job.id}/query", json={"columns": {"x": [[0.0] * 5], "y": [1]}}
    )
    assert "is no index" in refused(answer, 422, "invalid-request")
    body = {"kind": "index", "model": NAME, "train": {"dataset": NAME}}
    for fields, pointer, said in [
        ({"dimension": 1000}, "/dimension", "'0' with 36"),
        ({"curvature": "hessian"}, None, "not known in closed form"),
        ({"inversion": {"method": "cg"}}, None, "leave out 'inversion'"),
        ({"hessian_regularization": [0.1, 0.2]}, None, "one λ"),
        ({"measurement": "margin"}, "/measurement", "gradients of the loss"),
    ]:
        answer = http.post("/v1/jobs", json={**body, **fields})
        assert said in refused(answer, 422, "invalid-request", pointer)


def test_a_model_server_explains_what_it_is_not_sure_of(
    net: nn.Module, index: IndexResult, online: Client
) -> None:
    """The guide's example, asked like any server."""
    x, _ = rows(1, seed=18)

    async def asked(unsure: float) -> Any:
        async with AsyncClient(online.connection.url) as client:
            app = serving(net.float(), client, index.id, unsure)
            transport = httpx2.ASGITransport(app)
            async with httpx2.AsyncClient(transport=transport, base_url="http://here") as http:
                return (await http.post("/predict", json={"x": x[0].tolist()})).json()

    told, untold = asyncio.run(asked(1.0)), asyncio.run(asked(0.0))
    net.double()
    label = int(net(x).argmax())
    exact = influences(net, (x, torch.tensor([label])))
    assert untold == {"label": label, "confidence": pytest.approx(told["confidence"])}
    assert [each["row"] for each in told["because"]] == exact[0].topk(3).indices.tolist()
