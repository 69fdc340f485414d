"""Prometheus metrics: requests as they are answered; queues, jobs and workers as they are when somebody asks.

Requests and traffic are this process's own; everything else is the same from every front end.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from service.counters import Counters
from service.parts import Parts
from service.storage.workers import ages, alive
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

        self._received = Counter(
            "upweight_http_received_bytes", "Bytes of requests.", ["route"], registry=self._registry
        )
        self._sent = Counter(
            "upweight_http_sent_bytes", "Bytes of answers.", ["route"], registry=self._registry
        )

    def traffic(self, route: str, received: int, sent: int) -> None:
        """Counts the bodies of a request and its answer."""
        self._received.labels(route).inc(received)
        self._sent.labels(route).inc(sent)

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

    def describe(self) -> list[Metric]:
        return []  # or the registry would collect once to learn the names

    def collect(self) -> Iterator[Metric]:
        yield self._by_queue("upweight_queue_tasks", "Tasks waiting.", self._parts.queue.lengths())
        yield self._by_queue(
            "upweight_queue_oldest_seconds",
            "How long the next task has waited.",
            self._parts.queue.oldest(),
        )
        jobs = GaugeMetricFamily("upweight_jobs", "Jobs by state.", labels=["state"])
        records = self._parts.records
        namespaces = records.namespaces()
        for state in JobState:
            jobs.add_metric([state], sum(records.count("job", name, state) for name in namespaces))
        yield jobs
        yield GaugeMetricFamily(
            "upweight_records_not_copied",
            "Records whose copy in the object storage is not their last state.",
            value=self._parts.copies.noted(),
        )
        yield from self._workers()
        yield from Counters(self._parts.redis).collect()

    def _workers(self) -> Iterator[Metric]:
        found = alive(self._parts.redis)
        yield GaugeMetricFamily("upweight_workers", "Workers alive.", value=len(found))
        family = InfoMetricFamily("upweight_worker", "Workers alive.", labels=["worker"])
        memory = GaugeMetricFamily(
            "upweight_worker_memory_bytes",
            "`resident_peak` of the process; on a GPU `device_allocated` and `device_reserved` by torch, "
            "`device_used` and `device_total` of the device.",
            labels=["worker", "device", "kind"],
        )
        for worker in found:
            name, device = worker["name"], worker["device"]
            about = {key: str(worker[key]) for key in ("device", "host", "version", "torch")}
            family.add_metric([name], about)
            for kind, size in worker.get("memory", {}).items():
                memory.add_metric([name, device, kind], size)
        yield family
        yield memory
        heard = GaugeMetricFamily(
            "upweight_worker_heartbeat_age_seconds",
            "Since a worker was last heard of.",
            labels=["worker"],
        )
        for name, age in ages(self._parts.redis).items():
            heard.add_metric([name], age)
        yield heard

    @staticmethod
    def _by_queue(name: str, help: str, values: Mapping[str, float]) -> Metric:
        family = GaugeMetricFamily(name, help, labels=["queue"])
        for queue, value in values.items():
            family.add_metric([queue], value)
        return family
