"""What jobs of a model took, and what they found of its curvature: one hash a model, read in one go at each submission.

Lost with Redis, and made anew by the jobs that come: no number of a result depends on it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from redis import Redis

from service.storage.keys import PREFIX, Document
from service.storage.redis import reachable
from service.storage.shared import digest_of

LEAST_FLOPS = 5e9  # of a job that a rate is taken from: of less, most of the time is spent on calls
FADING = 0.9  # of the best rate, at each job that is slower: machines change
KEPT_SECONDS = 90 * 86_400
MOST_SPECTRA = 256  # of one model


@dataclass(frozen=True)
class Experience:
    """Of one model."""

    rate: float | None = None  # operations a second
    rate_job: str = ""
    fixed_seconds: float | None = None  # of a job, whatever is in it
    smallest: float | None = None  # eigenvalue of the curvature that is asked about
    smallest_job: str = ""


class Experiences:
    """Raises Unavailable when Redis does not answer."""

    def __init__(self, redis: Redis) -> None:
        self._redis: Any = redis

    def of(self, namespace: str, model: str, spectrum: str | None = None) -> Experience:
        """`spectrum`: the name of a curvature, by `spectrum_of`."""
        names = ["rate", "fixed", spectrum or "-"]
        with reachable():
            found = self._redis.hmget(_key(namespace, model), names)
        told: list[list[Any]] = [json.loads(each) if each else [None, ""] for each in found]
        rate, fixed, smallest = told
        return Experience(rate[0], rate[1], fixed[0], smallest[0], smallest[1])

    def note(self, namespace: str, job: Document) -> None:
        """Of a job that has succeeded."""
        before = self.of(namespace, job["model_id"])
        fields = _figures(job, before)
        spectrum, info = spectrum_of(job["request"], job.get("hessian_id")), job.get("info") or {}
        smallest = info.get("smallest_eigenvalue")
        key = _key(namespace, job["model_id"])
        with reachable():
            if (
                spectrum is not None
                and isinstance(smallest, float)
                and self._redis.hlen(key) < MOST_SPECTRA
            ):
                fields[spectrum] = [smallest, job["id"]]
            if fields:
                with self._redis.pipeline() as pipeline:
                    pipeline.hset(key, mapping={k: json.dumps(v) for k, v in fields.items()})
                    pipeline.expire(key, KEPT_SECONDS)
                    pipeline.execute()


def spectrum_of(request: Mapping[str, Any], hessian_id: str | None) -> str | None:
    """What the smallest eigenvalue of a job's curvature is kept under; None of a job without an inversion."""
    if "inversion" not in request or hessian_id is None or request.get("factors"):
        return None
    rows = (request.get("hessian_on") or {}).get("rows")
    drawn = request.get("seed") if (request.get("curvature") or {}).get("kind") == "fisher" else 0
    return digest_of([hessian_id, rows, request.get("curvature"), drawn])


def _figures(job: Document, before: Experience) -> dict[str, list[Any]]:
    told, cost = job.get("estimate") or {}, job.get("cost") or {}
    flops, engine = told.get("flops"), cost.get("engine_seconds") or 0.0
    seconds = cost.get("seconds") or 0.0
    if not flops or seconds <= 0.0 or (job.get("info") or {}).get("reused"):
        return {}
    fields: dict[str, list[Any]] = {}
    large = flops >= LEAST_FLOPS
    # A job that found its fit has done less than was counted.
    if large and engine > 0.0 and _passed_over_the_rows(cost):
        rate, faded = flops / engine, FADING * (before.rate or 0.0)
        fields["rate"] = [rate, job["id"]] if rate >= faded else [faded, before.rate_job]
    if large:
        computing = engine
    else:  # counted as what it was thought to take: what calls take beside that is fixed
        computing = min(
            engine, max(0.0, (told.get("seconds") or 0.0) - (told.get("fixed_seconds") or 0.0))
        )
    fixed = max(0.0, seconds - computing)
    known = before.fixed_seconds
    fields["fixed"] = [fixed if known is None else (known + fixed) / 2.0, job["id"]]
    return fields


def _passed_over_the_rows(cost: Mapping[str, Any]) -> bool:
    return (cost.get("hessian_passes") or 0.0) > 0.0


def _key(namespace: str, model: str) -> str:
    return f"{PREFIX}:experience:{namespace}:{model}"
