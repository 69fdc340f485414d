"""10,000 queued jobs: listed, filtered and cancelled as fast as ten are; one more is refused with 429."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from statistics import median

import httpx2

from benchmarks.figures import told
from benchmarks.load.busy import REQUEST, busy
from service.local.background import Running

FEW, MANY, ASKED = 10, 10_000, 50
SENDERS = 4


def main() -> None:
    """Prints the figures."""
    with (
        busy({"UPWEIGHT_QUEUE_LENGTH": str(MANY)}) as (service, _),
        httpx2.Client(base_url=service.url, timeout=60, trust_env=False) as http,
    ):
        ids = _send(service, FEW)
        few = _asked(http)
        began = time.perf_counter()
        ids += _send(service, MANY - FEW)
        told("jobs accepted", [(MANY - FEW) / (time.perf_counter() - began)], "/s")
        many = _asked(http)
        for name in many:
            told(f"{name}, {FEW} queued", [few[name]], "ms")
            told(f"{name}, {MANY} queued", [many[name]], "ms")
        answer = http.post("/v1/jobs", json={**REQUEST, "priority": "low"})
        if answer.status_code != 429 or "retry-after" not in answer.headers:
            raise SystemExit(f"a full queue answered {answer.status_code}")
        print(f"one more: {answer.status_code}, Retry-After {answer.headers['retry-after']} s")
        began = time.perf_counter()
        with ThreadPoolExecutor(SENDERS) as pool:
            list(pool.map(lambda id: _cancel(http, id), ids))
        told("jobs cancelled", [MANY / (time.perf_counter() - began)], "/s")
        left = http.get("/v1/jobs", params={"state": "queued"}).json()["items"]
        if left:
            raise SystemExit(f"{len(left)} are still queued")


def _send(service: Running, count: int) -> list[str]:
    def one(number: int) -> str:
        labels = {"lot": str(number % 100)}
        answer = http.post("/v1/jobs", json={**REQUEST, "labels": labels, "priority": "low"})
        answer.raise_for_status()
        return str(answer.json()["id"])

    with (
        httpx2.Client(base_url=service.url, timeout=60, trust_env=False) as http,
        ThreadPoolExecutor(SENDERS) as pool,
    ):
        return list(pool.map(one, range(count)))


def _cancel(http: httpx2.Client, id: str) -> None:
    http.post(f"/v1/jobs/{id}/cancel").raise_for_status()


def _asked(http: httpx2.Client) -> dict[str, float]:
    """Milliseconds of each way to look at the queue, in the median."""
    ten = http.get("/v1/jobs", params={"limit": 10}).json()["items"]
    middle = ten[len(ten) // 2]["id"]

    def listed(**query: str | int) -> Callable[[], httpx2.Response]:
        return lambda: http.get("/v1/jobs", params={"limit": 10, **query})

    ways = {
        "first page of ten": listed(),
        "page after a job": listed(after=middle),
        "oldest first": listed(order="asc"),
        "filter by state": listed(state="queued"),
        "filter by label": listed(label="lot=7"),
        "filter by state, label and model": listed(state="queued", label="lot=7", model="net"),
        "filter that nothing meets": listed(state="failed", model="net"),
        "one job with its place": lambda: http.get(f"/v1/jobs/{middle}"),
    }
    return {name: _median(ask) for name, ask in ways.items()}


def _median(ask: Callable[[], httpx2.Response]) -> float:
    times = []
    for _ in range(ASKED):
        began = time.perf_counter()
        ask().raise_for_status()
        times.append((time.perf_counter() - began) * 1000)
    return median(times)
