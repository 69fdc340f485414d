"""What was last measured of results of a model with a method and a λ.

Each is an object, and a field of a hash of its namespace in Redis, which is looked at and can be made anew from the
objects. They outlive the jobs that measured them, as they are about the model.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from redis import Redis

from service.storage.keys import PREFIX, Document
from service.storage.layout import QUALITIES, quality_path
from service.storage.objects import Objects
from service.storage.redis import reachable
from service.storage.shared import digest_of


class Qualities:
    """Raises Unavailable when Redis or the object storage does not answer."""

    def __init__(self, redis: Redis, objects: Objects) -> None:
        self._redis: Any = redis
        self._objects = objects

    def note(self, namespace: str, measured: Mapping[str, Document]) -> None:
        """Keeps what was measured, by `names_of`, in place of what was before."""
        fields = {name: json.dumps(each, sort_keys=True) for name, each in measured.items()}
        for name, text in fields.items():
            self._objects.put(quality_path(namespace, name), text.encode())
        if fields:
            with reachable():
                self._redis.hset(_key(namespace), mapping=fields)

    def restore(self, *, dry_run: bool = False) -> tuple[int, int]:
        """Puts back what Redis has lost of all namespaces: how many it has, and how many were there."""
        lost = there = 0
        for meta in self._objects.walk(QUALITIES):
            _, namespace, file = meta.path.split("/")
            key, name = _key(namespace), file.removesuffix(".json")
            with reachable():
                known = bool(self._redis.hexists(key, name))
            if not known and not dry_run:
                text = self._objects.get(meta.path)
                with reachable():
                    self._redis.hsetnx(key, name, text)
            lost, there = lost + (not known), there + known
        return lost, there

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
