"""AsyncClient: the same methods over the same flows, awaited."""

from __future__ import annotations

import asyncio
import inspect
import io
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest

from tests.upweight import records
from tests.upweight.local_server import Server, answer, cut, dropped, events, problem
from tests.upweight.test_array import ARRAY, npy, sliced
from tests.upweight.test_blobs import BYTES, DIGEST, STORED
from upweight import AsyncClient, AsyncInfluenceResult, Client, errors

T = TypeVar("T")
JOB_PATH = f"/v1/jobs/{records.JOB}"


def awaited(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(work)


def _public(thing: object) -> set[str]:
    return {name for name in dir(thing) if not name.startswith("_")}


def _parameters(method: Any) -> list[tuple[str, Any, Any]]:
    parameters = inspect.signature(method).parameters.values()
    return [(parameter.name, parameter.kind, parameter.default) for parameter in parameters]


@pytest.mark.parametrize("part", ["", "blobs", "models", "datasets", "jobs"])
def test_both_clients_have_the_same_methods_with_the_same_parameters(part: str) -> None:
    one: Any = getattr(Client(), part) if part else Client()
    other: Any = getattr(AsyncClient(), part) if part else AsyncClient()
    assert _public(one) == _public(other)
    for name in _public(one):
        if inspect.ismethod(getattr(one, name)):
            assert _parameters(getattr(one, name)) == _parameters(getattr(other, name)), name


def test_lost_connections_are_made_again(server: Server) -> None:
    async def work() -> str:
        async with AsyncClient(server.url) as client:
            return (await client.models.get("m")).id

    server.on("GET", "/v1/models/m", dropped, answer(503), answer(200, records.model()))
    assert awaited(work()) == records.MODEL


def test_problems_are_raised_as_their_classes(server: Server) -> None:
    async def work() -> None:
        async with AsyncClient(server.url) as client:
            await client.datasets.delete("d")

    server.on("DELETE", "/v1/datasets/d", problem(409, "in-use", "a job holds it"))
    with pytest.raises(errors.InUse, match="a job"):
        awaited(work())


def test_blobs_go_up_and_come_down_whole(server: Server, tmp_path: Path) -> None:
    async def work() -> Path:
        async with AsyncClient(server.url) as client:
            record = await client.blobs.put(io.BytesIO(BYTES))
            return await client.blobs.download(record.digest, tmp_path / "w")

    path = f"/v1/blobs/{DIGEST}"
    server.on("HEAD", path, answer(404))
    server.on("PUT", path, dropped, answer(201, STORED))
    server.on("GET", path, cut(BYTES, 100), answer(200, BYTES))
    assert awaited(work()).read_bytes() == BYTES
    assert [asked.body for asked in server.asked if asked.method == "PUT"][-1] == BYTES


def test_a_computation_is_awaited_and_its_slices_too(server: Server) -> None:
    async def work() -> tuple[Any, Any, Any]:
        async with AsyncClient(server.url) as client:
            result = await client.compute_influences("m", "d", "t", inversion_method="cg", rtol=0.1)
            assert isinstance(result, AsyncInfluenceResult)
            part, row = await asyncio.gather(result.influences[3:5, ::10], result.influences[-1])
            return part, row, await result.numpy()

    server.on("POST", "/v1/jobs", answer(202, records.job("queued")))
    server.on("GET", JOB_PATH, answer(200, records.influences(list(ARRAY.shape))))
    server.on("GET", f"{JOB_PATH}/influences", sliced(ARRAY))
    part, row, whole = awaited(work())
    np.testing.assert_array_equal(part, ARRAY[3:5, ::10])
    np.testing.assert_array_equal(row, ARRAY[-1])
    np.testing.assert_array_equal(whole, ARRAY)


def test_events_are_resumed(server: Server) -> None:
    async def work() -> list[int]:
        async with AsyncClient(server.url) as client:
            return [job.revision async for job in client.jobs.events(records.JOB)]

    server.on(
        "GET",
        f"{JOB_PATH}/events",
        events(records.job("queued", 1), records.job("running", 2)),
        events(records.job("succeeded", 3)),
    )
    assert awaited(work()) == [1, 2, 3]
    assert server.asked[1].headers["last-event-id"] == "2"


def test_lists_are_read_with_async_for(server: Server) -> None:
    async def work() -> list[int]:
        async with AsyncClient(server.url) as client:
            return [model.version async for model in client.models.list(limit=3)]

    page = {"items": [records.model(version=v) for v in (1, 2)], "has_more": True}
    server.on("GET", "/v1/models", answer(200, {**page, "next_after": "a"}))
    assert awaited(work()) == [1, 2, 1]


def test_datasets_and_info_and_files_are_awaited(server: Server, tmp_path: Path) -> None:
    spec = {"name": "values", "dtype": "float64", "shape": [2], "size_bytes": 16}
    info = {"method": "arnoldi", "summary": {"rank": 2}, "arrays": [spec]}

    async def work() -> tuple[Any, Any, Path]:
        async with AsyncClient(server.url) as client:
            result = await client.jobs.result(records.JOB)
            found = await result.info()
            saved = await result.save(tmp_path / "r.npz")
            return found["rank"], await found["values"][:1], saved

    server.on("GET", JOB_PATH, answer(200, records.influences(list(ARRAY.shape))))
    server.on("GET", f"{JOB_PATH}/influences", sliced(ARRAY))
    server.on("GET", f"/v1/datasets/{records.DATASET}", answer(200, records.dataset()))
    server.on("GET", f"{JOB_PATH}/info", answer(200, info), answer(200, npy(np.array([4.0, 5.0]))))
    rank, values, saved = awaited(work())
    assert (rank, values.tolist()) == (2, [4.0])
    with np.load(saved) as arrays:
        np.testing.assert_array_equal(arrays["influences"], ARRAY)
