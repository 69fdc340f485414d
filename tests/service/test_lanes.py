"""Of one namespace a few requests are worked on at a time while others ask for something, too."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from service.limits import lanes as module
from service.limits.lanes import BESIDE, Lanes, leave_lane
from tests.patience import PATIENCE

MANY = 5 * BESIDE


class Requests:
    """Requests of two namespaces that go on until they are let go."""

    def __init__(self) -> None:
        self.lanes = Lanes()
        self.running: dict[str, int] = {"a": 0, "b": 0}
        self.go = asyncio.Event()

    async def one(self, namespace: str, between: Callable[[], None] = lambda: None) -> None:
        place = await self.lanes.enter(namespace)
        with self.lanes.here(place):
            between()
            self.running[namespace] += 1
            await self.go.wait()
        self.running[namespace] -= 1


def run(test: Callable[[Requests], Awaitable[None]]) -> None:
    async def main() -> None:
        await asyncio.wait_for(test(Requests()), PATIENCE)

    asyncio.run(main())


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_a_namespace_that_is_alone_has_as_many_as_it_likes() -> None:
    async def test(requests: Requests) -> None:
        tasks = [asyncio.create_task(requests.one("a")) for _ in range(MANY)]
        await settle()
        assert requests.running["a"] == MANY
        requests.go.set()
        await asyncio.gather(*tasks)

    run(test)


def test_beside_another_it_has_a_few_at_a_time_and_the_other_waits_for_none_of_them() -> None:
    async def test(requests: Requests) -> None:
        first = asyncio.create_task(requests.one("b"))
        tasks = [asyncio.create_task(requests.one("a")) for _ in range(MANY)]
        await settle()
        assert requests.running == {"a": BESIDE, "b": 1}
        second = asyncio.create_task(requests.one("b"))
        await settle()
        assert requests.running["b"] == 2
        requests.go.set()
        await asyncio.gather(first, second, *tasks)
        assert requests.running == {"a": 0, "b": 0}

    run(test)


def test_what_waits_gives_its_place_to_the_next() -> None:
    async def test(requests: Requests) -> None:
        other = asyncio.create_task(requests.one("b"))
        await settle()
        waiting = [asyncio.create_task(requests.one("a", leave_lane)) for _ in range(MANY)]
        await settle()
        assert requests.running["a"] == MANY
        requests.go.set()
        await asyncio.gather(other, *waiting)

    run(test)


def test_one_that_is_cut_off_while_it_waits_keeps_no_place() -> None:
    async def test(requests: Requests) -> None:
        other = asyncio.create_task(requests.one("b"))
        await settle()
        tasks = [asyncio.create_task(requests.one("a")) for _ in range(MANY)]
        await settle()
        for task in tasks[BESIDE:-1]:
            task.cancel()
        tasks[0].cancel()  # one that is worked on: the last comes in for it
        await settle()
        assert not tasks[-1].done()
        requests.go.set()
        await asyncio.gather(other, *tasks, return_exceptions=True)
        assert tasks[-1].exception() is None

    run(test)


def test_without_company_those_that_wait_all_come_in(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(requests: Requests) -> None:
        other = asyncio.create_task(requests.one("b"))
        await settle()
        tasks = [asyncio.create_task(requests.one("a")) for _ in range(MANY)]
        await settle()
        assert requests.running["a"] == BESIDE
        monkeypatch.setattr(module, "COMPANY_SECONDS", 0.0)
        tasks[0].cancel()
        await settle()
        assert sum(not task.done() for task in tasks) == MANY - 1
        requests.go.set()
        await asyncio.gather(other, *tasks, return_exceptions=True)

    run(test)
