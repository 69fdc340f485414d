"""Every route of the service's document is a method of both clients, and that method asks for that route."""

from __future__ import annotations

import asyncio
import inspect
import json
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.upweight import records
from upweight import AsyncClient, Client, UpweightError
from upweight.client.webhooks import PATH as SECRET
from upweight.results.blocking import RESULTS
from upweight.results.coroutines import ASYNC_RESULTS
from upweight.schema import JobRecord, ModelRecord

DOCUMENT = json.loads((Path(__file__).parent.parent.parent / "openapi.json").read_text())
WITHOUT = {
    ("GET", "/healthz"): "whether a process lives is for what runs it; people ask health()",
    ("GET", "/metrics"): "for Prometheus",
    ("GET", "/v1/indexes/{id}/query"): "for a browser's EventSource; the SDK asks by POST",
}
JOB, DIGEST = records.JOB, records.DIGEST
STORED = ("matrix", "rescaled", "mean", "factors")
OF_KINDS = {"gradients": ("gradients",), "hvp": ("products",)}
TRAINING = {
    "parent": {"id": "mdl_x", "name": "m", "version": 1},
    "job": JOB,
    "recipe": {"optimizer": "sgd", "lr": 0.1, "epochs": 1},
    "dataset": "dst_x",
    "rows": 3,
}


def _result(client: Any, kind: str = "influences") -> Any:
    """A result as a client has it, without asking for its record."""
    request = dict(records.job()["request"], kind=kind)
    if kind != "influences":
        del request["test"]
    if kind in OF_KINDS:
        del request["inversion"]
    if kind == "hvp":
        request["vectors"] = JOB
    stored = OF_KINDS.get(kind, STORED)
    fields = {**records.influences([3, 5], *stored), "request": request}
    kinds = RESULTS if isinstance(client, Client) else ASYNC_RESULTS
    made: Callable[..., Any] = kinds[kind]
    return made(client._link, client._bars, JobRecord.model_validate(fields))


CALLS: dict[tuple[str, str], Callable[[Any], Any]] = {
    ("GET", "/readyz"): lambda c: c.health(),
    ("GET", "/v1/access"): lambda c: c.access(),
    ("HEAD", "/v1/blobs/{digest}"): lambda c: c.blobs.head(DIGEST),
    ("GET", "/v1/blobs/{digest}"): lambda c: c.blobs.get(DIGEST),
    ("PUT", "/v1/blobs/{digest}"): lambda c: c.blobs.put(b"bytes"),
    ("POST", "/v1/blobs/{digest}/url"): lambda c: c.blobs.url(DIGEST),
    ("POST", "/v1/blobs/{digest}/complete"): lambda c: c.blobs.complete(DIGEST),
    ("GET", "/v1/models"): lambda c: c.models.list(),
    ("POST", "/v1/models"): lambda c: c.models.register(
        "m", factory="a.b:c", weights=DIGEST, loss="mse"
    ),
    ("GET", "/v1/models/{reference}"): lambda c: c.models.get("m"),
    ("DELETE", "/v1/models/{reference}"): lambda c: c.models.delete("m"),
    ("GET", "/v1/datasets"): lambda c: c.datasets.list(),
    ("POST", "/v1/datasets"): lambda c: c.datasets.register("d", uri="s3://b/d", format="npz"),
    ("GET", "/v1/datasets/{reference}"): lambda c: c.datasets.get("d"),
    ("DELETE", "/v1/datasets/{reference}"): lambda c: c.datasets.delete("d"),
    ("PATCH", "/v1/datasets/{reference}"): lambda c: c.datasets.change("d", preview=None),
    ("POST", "/v1/datasets/{reference}/derive"): lambda c: c.datasets.derive("e", "d", drop=[1]),
    ("GET", "/v1/datasets/{reference}/rows"): lambda c: c.datasets.rows("d", "0:2"),
    ("GET", "/v1/jobs"): lambda c: c.jobs.list(),
    ("POST", "/v1/jobs"): lambda c: c.jobs.create(records.job()["request"]),
    ("GET", "/v1/jobs/{id}"): lambda c: c.jobs.get(JOB),
    ("DELETE", "/v1/jobs/{id}"): lambda c: c.jobs.delete(JOB),
    ("PATCH", "/v1/jobs/{id}"): lambda c: c.jobs.change(JOB, name="baseline"),
    ("POST", "/v1/jobs/{id}/cancel"): lambda c: c.jobs.cancel(JOB),
    ("POST", "/v1/jobs/{id}/retry"): lambda c: c.jobs.retry(JOB),
    ("GET", "/v1/jobs/{id}/events"): lambda c: c.jobs.events(JOB),
    ("GET", "/v1/jobs/{id}/deliveries"): lambda c: c.jobs.deliveries(JOB),
    ("GET", "/v1/jobs/{id}/influences"): lambda c: _result(c).influences[0],
    ("GET", "/v1/jobs/{id}/self_influences"): lambda c: _result(c, "self_influences").influences[0],
    ("GET", "/v1/jobs/{id}/mean"): lambda c: _result(c).mean(),
    ("GET", "/v1/jobs/{id}/rescaled"): lambda c: _result(c).rescaled[:],
    ("GET", "/v1/jobs/{id}/factors"): lambda c: _result(c).factors[0],
    ("GET", "/v1/jobs/{id}/gradients"): lambda c: _result(c, "gradients").x[0],
    ("GET", "/v1/jobs/{id}/products"): lambda c: _result(c, "hvp").x[0],
    ("GET", "/v1/jobs/{id}/top"): lambda c: _result(c).top(),
    ("GET", "/v1/jobs/{id}/bm25"): lambda c: _result(c).bm25(0),
    ("GET", "/v1/jobs/{id}/suspects"): lambda c: _result(c).suspects(),
    ("GET", "/v1/jobs/{id}/rows"): lambda c: _result(c).rows(),
    ("GET", "/v1/jobs/{id}/info"): lambda c: info(_result(c)),
    ("POST", "/v1/indexes/{id}/query"): lambda c: _result(c, "index").query(x=[[0.0]], y=[1]),
    ("GET", "/v1/banks"): lambda c: c.banks.list(),
    ("DELETE", "/v1/banks/{id}"): lambda c: c.banks.delete("0" * 64),
    ("GET", "/v1/jobs/{id}/report.html"): lambda c: c.models.save_report(
        ModelRecord.model_validate({**records.model(), "training": TRAINING})
    ),
    ("GET", "/v1/jobs/{id}/report"): lambda c: _result(c).report(),
    ("GET", "/v1/jobs/{id}/files"): lambda c: _result(c).files(),
    ("GET", SECRET): lambda c: c.webhooks.secret(),
    ("POST", f"{SECRET}/rotate"): lambda c: c.webhooks.rotate_secret(),
}
ROUTES = [(verb.upper(), path) for path, verbs in DOCUMENT["paths"].items() for verb in verbs]


def info(result: Any) -> Any:
    """A property of the one, a method of the other."""
    return result.info() if callable(getattr(type(result), "info", None)) else result.info


def test_every_route_is_accounted_for() -> None:
    assert {*CALLS} | {*WITHOUT} == {*ROUTES}
    assert not {*CALLS} & {*WITHOUT}


def asks(route: tuple[str, str], asked: list[tuple[str, str]]) -> bool:
    """Whether one of the requests is for a route with placeholders."""
    pattern = re.sub(r"\{\w+\}", "[^/]+", route[1])
    return any(verb == route[0] and re.fullmatch(pattern, path) for verb, path in asked)


def answered(request: httpx2.Request) -> httpx2.Response:
    """Nothing is there, but the dataset whose rows are asked for."""
    if request.url.path == "/v1/datasets/d":
        return httpx2.Response(200, json=records.dataset())
    return httpx2.Response(404)


@pytest.mark.parametrize("route", [route for route in ROUTES if route not in WITHOUT], ids=" ".join)
def test_its_method_asks_for_it(route: tuple[str, str]) -> None:
    asked: list[tuple[str, str]] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        asked.append((request.method, request.url.path))
        return answered(request)

    transport = httpx2.MockTransport(answer)
    # There is nothing to find: what was asked for is what counts.
    with suppress(UpweightError), Client("http://here", transport=transport, retries=0) as client:
        made = CALLS[route](client)
        if inspect.isgenerator(made):
            next(made)
    assert asks(route, asked)

    async def awaited() -> None:
        async with AsyncClient("http://here", transport=transport, retries=0) as client:
            made = CALLS[route](client)
            await (anext(made) if inspect.isasyncgen(made) else made)

    asked.clear()
    with suppress(UpweightError):
        asyncio.run(awaited())
    assert asks(route, asked)
