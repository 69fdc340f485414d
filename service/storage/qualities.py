"""What was last measured of results of a model with a method and a λ: a field each of a hash of the namespace."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from redis import Redis

from service.storage.keys import PREFIX, Document
from service.storage.redis import reachable
from service.storage.shared import digest_of


class Qualities:
    """Raises Unavailable when Redis does not answer."""

    def __init__(self, redis: Redis) -> None:
        self._redis: Any = redis

    def note(self, namespace: str, measured: Mapping[str, Document]) -> None:
        """Keeps what was measured, by `names_of`, in place of what was before."""
        if measured:
            fields = {name: json.dumps(each, sort_keys=True) for name, each in measured.items()}
            with reachable():
                self._redis.hset(_key(namespace), mapping=fields)

    def of(self, namespace: str, names: Sequence[str]) -> list[Document | None]:
        """For each name what was measured last; None where nothing was."""
        if not names:
            return []
        with reachable():
            found = self._redis.hmget(_key(namespace), list(names))
        return [None if each is None else json.loads(each) for each in found]


def names_of(model_digest: str, job: Document) -> Iterator[tuple[float, str]]:
    """Each λ of a job's record, and what its quality is kept under; nothing of a job without an inversion."""
    request = job["request"]
    if "inversion" not in request:
        return
    told, asked = job.get("damping"), request.get("hessian_regularization", 0.0)
    values = told["values"] if told else asked if isinstance(asked, list) else [asked]
    for damping in values:
        if isinstance(damping, int | float):
            of = [model_digest, request["inversion"], request.get("curvature"), f"{damping:.12g}"]
            yield float(damping), digest_of(of)


def _key(namespace: str) -> str:
    return f"{PREFIX}:quality:{namespace}"
