"""Counts and histograms that all processes of the service share: kept in Redis, so that a worker needs no port.

A fixed table of names, labels and buckets bounds what is kept. A count that Redis does not take is lost, and nothing
else is: no job fails for its figures.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from redis import Redis
from redis.exceptions import RedisError

from service.storage.keys import PREFIX

_KEY = f"{PREFIX}:tallies"  # as earlier versions call it
_SEPARATOR = "|"
_SECONDS = (
    0.01,
    0.03,
    0.1,
    0.3,
    1.0,
    3.0,
    10.0,
    30.0,
    100.0,
    300.0,
    1000.0,
    3600.0,
    14400.0,
    86400.0,
)


@dataclass(frozen=True)
class Counter:
    """One metric: a counter, or with buckets a histogram."""

    name: str
    help: str
    labels: tuple[str, ...]
    buckets: tuple[float, ...] = ()


WAIT = Counter(
    "upweight_job_wait_seconds", "From a job's creation to its begin.", ("queue",), _SECONDS
)
RUN = Counter(
    "upweight_job_run_seconds", "From a job's begin to its end.", ("kind", "method"), _SECONDS
)
ENDED = Counter("upweight_jobs_ended", "Jobs that ended.", ("kind", "method", "state"))
FAILED = Counter(
    "upweight_job_failures", "Jobs that failed, by problem.", ("kind", "method", "type")
)
PASSES = Counter("upweight_hessian_passes", "Passes over training sets.", ("kind", "method"))
ENGINE = Counter("upweight_engine_seconds", "Time in the engine.", ("kind", "method"))
STORED = Counter("upweight_result_bytes", "Bytes of results stored.", ("kind",))
LOST = Counter("upweight_jobs_lost", "Jobs taken from workers that fell silent.", ())
TASK = Counter(
    "upweight_task_seconds", "Time of a task, a job's block or a check.", ("task",), _SECONDS
)
TASKS = Counter("upweight_tasks", "Tasks worked off.", ("task", "outcome"))

_ALL = {
    counter.name: counter
    for counter in (WAIT, RUN, ENDED, FAILED, PASSES, ENGINE, STORED, LOST, TASK, TASKS)
}


class Counters:
    """The figures of all processes."""

    def __init__(self, redis: Redis) -> None:
        self._redis: Any = redis

    def add(self, *noted: tuple[Counter, tuple[str, ...], float]) -> None:
        """Counts, and times of histograms: a counter, the values of its labels, an amount."""
        try:
            with self._redis.pipeline(transaction=False) as pipeline:
                for counter, values, amount in noted:
                    for suffix, each in _parts(counter, amount):
                        pipeline.hincrbyfloat(_KEY, _field(counter, values, suffix), each)
                pipeline.execute()
        except RedisError:
            return

    def collect(self) -> Iterator[Metric]:
        """All of them, as Prometheus takes them."""
        found: dict[str, dict[tuple[str, ...], dict[str, float]]] = {name: {} for name in _ALL}
        for field, value in self._redis.hgetall(_KEY).items():
            name, *values, suffix = field.decode().split(_SEPARATOR)
            counter = _ALL.get(name)
            if counter is not None and len(values) == len(
                counter.labels
            ):  # not one of another version
                found[name].setdefault(tuple(values), {})[suffix] = float(value)
        for name, series in found.items():
            yield _family(_ALL[name], series)


def _parts(counter: Counter, amount: float) -> list[tuple[str, float]]:
    if not counter.buckets:
        return [("", amount)]
    return [(str(bisect_left(counter.buckets, amount)), 1.0), ("sum", amount)]


def _field(counter: Counter, values: tuple[str, ...], suffix: str) -> str:
    return _SEPARATOR.join((counter.name, *values, suffix))


def _family(counter: Counter, series: Mapping[tuple[str, ...], Mapping[str, float]]) -> Metric:
    if not counter.buckets:
        family = CounterMetricFamily(counter.name, counter.help, labels=counter.labels)
        for values, parts in sorted(series.items()):
            family.add_metric(values, parts.get("", 0.0))
        return family
    histogram = HistogramMetricFamily(counter.name, counter.help, labels=counter.labels)
    edges = [*map(str, counter.buckets), "+Inf"]
    for values, parts in sorted(series.items()):
        total, buckets = 0.0, []
        for number, edge in enumerate(edges):
            total += parts.get(str(number), 0.0)
            buckets.append((edge, total))
        histogram.add_metric(values, buckets, parts.get("sum", 0.0))
    return histogram
