"""Prometheus metrics: requests as they are answered; queues, jobs and workers as they are when somebody asks."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from service.parts import Parts
from service.storage.workers import alive
from upweight.schema import JobState

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """This process's own counts."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "upweight_http_requests",
            "Requests answered.",
            ["method", "route", "status"],
            registry=self._registry,
        )
        self._seconds = Histogram(
            "upweight_http_request_seconds",
            "Time from a request's first byte to its answer's last.",
            ["route"],
            buckets=_SECONDS,
            registry=self._registry,
        )

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Counts an answered request; status 0 is one whose client went away."""
        known = method if method in ("GET", "HEAD", "PUT", "POST", "DELETE") else "other"
        self._requests.labels(known, route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def exposition(self, parts: Parts) -> bytes:
        """All metrics in Prometheus's text format. Raises Unavailable."""
        shared = CollectorRegistry()
        shared.register(_Shared(parts))
        return generate_latest(self._registry) + generate_latest(shared)


class _Shared(Collector):
    """What all processes of the service share, read from Redis."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def describe(self) -> list[GaugeMetricFamily]:
        return []  # or the registry would collect once to learn the names

    def collect(self) -> Iterator[GaugeMetricFamily]:
        queues = GaugeMetricFamily("upweight_queue_tasks", "Tasks waiting.", labels=["queue"])
        for name, length in self._parts.queue.lengths().items():
            queues.add_metric([name], length)
        yield queues
        jobs = GaugeMetricFamily("upweight_jobs", "Jobs by state.", labels=["state"])
        records = self._parts.records
        namespaces = records.namespaces()
        for state in JobState:
            jobs.add_metric([state], sum(records.count("job", name, state) for name in namespaces))
        yield jobs
        yield GaugeMetricFamily(
            "upweight_workers", "Workers alive.", value=len(alive(self._parts.redis))
        )
