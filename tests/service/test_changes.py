"""Thousands who wait for records: what they read is shared, their number is limited, and a lost feed is noticed."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import httpx2
import pytest

from service.changes import Changes
from service.jobs import actions
from service.parts import Parts
from service.storage.keys import CHANGES, message
from service.storage.redis import connect
from tests.patience import PATIENCE
from tests.service.acting import Acting, problem
from tests.service.conftest import Front, run_front, small_settings

AT_ONCE = 20
ID = "job_01ARZ3NDEKTSV4RRFFQ69G5FAV"


def on_a_feed(url: str, scene: Callable[[Changes, Any], Awaitable[None]]) -> None:
    """Plays a scene with a feed and a Redis to publish on."""

    async def play() -> None:
        redis = connect(url)
        changes = Changes(redis, 10_000)
        changes.start()
        try:
            while not redis.pubsub_numsub(CHANGES)[0][1]:
                await asyncio.sleep(0.01)
            await scene(changes, redis)
        finally:
            changes.close()
            changes.join()
            redis.close()

    asyncio.run(play())


def test_a_thousand_who_wait_for_one_record_read_it_together(redis_url: str) -> None:
    reads = itertools.count()
    state = {"state": "running"}

    async def scene(changes: Changes, redis: Any) -> None:
        def read() -> dict[str, Any]:
            next(reads)
            return dict(state)

        def done(document: dict[str, Any]) -> bool:
            return document["state"] == "succeeded"

        waiting = [
            asyncio.create_task(
                changes.until("job", "a", ID, read, done=done, seconds=2 * PATIENCE)
            )
            for _ in range(1000)
        ]
        await asyncio.sleep(0.5)
        state["state"] = "succeeded"
        redis.publish(CHANGES, message("job", "a", ID))
        found = await asyncio.wait_for(asyncio.gather(*waiting), PATIENCE)
        assert all(each == {"state": "succeeded"} for each in found)

    on_a_feed(redis_url, scene)
    assert next(reads) < 20


def test_who_waits_hears_of_a_change_at_once_and_of_one_that_a_lost_feed_swallowed(
    redis_url: str,
) -> None:
    state = {"state": "running"}

    async def scene(changes: Changes, redis: Any) -> None:
        changes._poll_seconds = lambda: 60.0  # type: ignore[method-assign]  # as if there were thousands
        waiting = asyncio.create_task(
            changes.until(
                "job",
                "a",
                ID,
                lambda: dict(state),
                done=lambda d: d["state"] == "ended",
                seconds=2 * PATIENCE,
            )
        )
        await asyncio.sleep(0.2)
        redis.client_kill_filter(_type="pubsub")
        state["state"] = "ended"  # and nothing is published
        assert await asyncio.wait_for(waiting, PATIENCE) == {"state": "ended"}

    on_a_feed(redis_url, scene)


def test_a_crowd_of_listeners_of_one_namespace_does_not_slow_those_of_another(
    redis_url: str,
) -> None:
    heard: Counter[str] = Counter()

    async def scene(changes: Changes, redis: Any) -> None:
        async def listen(namespace: str) -> None:
            async for _ in changes.follow("job", namespace, ID, lambda: {"state": "running"}):
                heard[namespace] += 1

        crowd = [asyncio.create_task(listen("a")) for _ in range(3_000)]
        one = asyncio.create_task(listen("b"))
        while not heard["b"]:
            await asyncio.sleep(0.01)
        for _ in range(4):
            before = heard["b"]
            redis.publish(CHANGES, message("job", "b", ID))
            while heard["b"] == before:
                await asyncio.sleep(0.01)
        for task in (*crowd, one):
            task.cancel()

    on_a_feed(redis_url, scene)
    # None of the crowd has heard twice: it looks again after 42 s, which the one would have needed as well.
    assert heard["a"] <= 3_000


def test_an_error_of_the_reading_reaches_all_who_wait(redis_url: str) -> None:
    async def scene(changes: Changes, redis: Any) -> None:
        def read() -> dict[str, Any]:
            raise LookupError("gone")

        waiting = [
            changes.until("job", "a", ID, read, done=lambda _: False, seconds=9) for _ in range(3)
        ]
        found = await asyncio.gather(*waiting, return_exceptions=True)
        assert [str(each) for each in found] == ["gone"] * 3

    on_a_feed(redis_url, scene)


@pytest.fixture
def few(redis_server: Any, redis_url: str, tmp_path: Any) -> Any:
    yield from run_front(small_settings(redis_server, tmp_path, namespace_listeners=2))


def test_streams_and_held_answers_of_a_namespace_are_limited(few: Front) -> None:
    with httpx2.Client(base_url=few.url, timeout=60, trust_env=False) as client:
        acting = Acting(client, few.parts)
        acting.ready()
        id = acting.job()["id"]
        path = f"/v1/jobs/{id}/events"
        with client.stream("GET", path) as first, client.stream("GET", path) as second:
            lines = [first.iter_lines(), second.iter_lines()]  # a stream ends with its iterator
            assert all(next(each) for each in lines)
            for over in (path, f"/v1/jobs/{id}?wait=5"):
                answer = client.get(over)
                assert "2 streams" in problem(answer, 429, "rate-limited")["detail"]
                assert answer.headers["retry-after"] == "5"
            assert client.get(f"/v1/jobs/{id}").status_code == 200


def test_many_that_are_opened_at_once_are_no_more_than_may_be(
    few: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    with httpx2.Client(base_url=few.url, timeout=60, trust_env=False) as client:
        acting = Acting(client, few.parts)
        acting.ready()
        id = acting.job()["id"]
        together, calls = threading.Barrier(AT_ONCE), itertools.count()

        def read(parts: Parts, namespace: str, id: str) -> actions.ShownJob:
            """All have read the record in the same moment."""
            if next(calls) < AT_ONCE:
                together.wait(60)
            return real(parts, namespace, id)

        real = actions.current_job
        monkeypatch.setattr(actions, "current_job", read)
        found: list[int] = []
        opened = threading.Semaphore(0)
        ended = threading.Event()

        def open_one() -> None:
            with httpx2.stream("GET", f"{few.url}/v1/jobs/{id}/events", trust_env=False) as answer:
                found.append(answer.status_code)
                opened.release()
                assert ended.wait(60)

        threads = [threading.Thread(target=open_one) for _ in range(AT_ONCE)]
        for thread in threads:
            thread.start()
        for _ in threads:
            assert opened.acquire(timeout=60)
        ended.set()
        for thread in threads:
            thread.join()
        assert Counter(found) == {200: 2, 429: AT_ONCE - 2}
        deadline = time.monotonic() + 60
        while client.get(f"/v1/jobs/{id}?wait=0.1").status_code == 429:  # places come free again
            assert time.monotonic() < deadline
