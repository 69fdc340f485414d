"""Which workers are alive: each says so again and again, and is forgotten when it stops saying so."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from redis import Redis

from service.storage.keys import PREFIX
from service.storage.redis import reachable

_NAMES = f"{PREFIX}:workers"  # a set, so that counting workers never walks all keys


def register(redis: Redis, name: str, info: Mapping[str, Any], ttl: float) -> None:
    """Says that a worker is alive for the next `ttl` seconds. `info` is JSON: device, what it does."""
    with reachable(), redis.pipeline(transaction=False) as pipeline:
        entry = json.dumps({**info, "name": name, "ttl": ttl})
        pipeline.set(_key(name), entry, px=max(1, int(ttl * 1000)))
        pipeline.sadd(_NAMES, name)
        pipeline.execute()


def forget(redis: Redis, name: str) -> None:
    """Says that a worker has stopped."""
    with reachable(), redis.pipeline(transaction=False) as pipeline:
        pipeline.delete(_key(name))
        pipeline.srem(_NAMES, name)
        pipeline.execute()


def alive(redis: Redis) -> list[dict[str, Any]]:
    """What the workers that are alive said of themselves, by name."""
    return [
        {key: value for key, value in worker.items() if key != "ttl"}
        for worker in _heartbeats(redis)
    ]


def _heartbeats(redis: Redis) -> list[dict[str, Any]]:
    client: Any = redis
    with reachable():
        names = sorted(member.decode() for member in client.smembers(_NAMES))
        entries = client.mget([_key(name) for name in names]) if names else []
        gone = [name for name, info in zip(names, entries, strict=True) if info is None]
        if gone:
            client.srem(_NAMES, *gone)
    return [json.loads(info) for info in entries if info is not None]


def ages(redis: Redis) -> dict[str, float]:
    """Seconds since each worker that is alive was last heard of, by Redis's clock alone."""
    workers = _heartbeats(redis)
    with reachable(), redis.pipeline(transaction=False) as pipeline:
        for worker in workers:
            pipeline.pttl(_key(worker["name"]))
        left = pipeline.execute()
    return {
        worker["name"]: max(0.0, float(worker.get("ttl", 0.0)) - max(0, milliseconds) / 1000)
        for worker, milliseconds in zip(workers, left, strict=True)
    }


def _key(name: str) -> str:
    return f"{PREFIX}:worker:{name}"
