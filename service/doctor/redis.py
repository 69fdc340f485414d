"""Whether Redis answers, keeps what it is told, and has the time that this machine has."""

from __future__ import annotations

import time
from typing import Any
from urllib.parse import urlsplit

from redis import Redis
from redis.exceptions import AuthenticationError, RedisError

from service.storage.redis import connect
from upweight.diagnosis import Finding, fail, ok, warn

SKEW_SECONDS = 2.0  # leases are twelve
OLDEST = (7, 0)


def redis(url: str) -> tuple[Redis | None, list[Finding]]:
    """A connection if there is one, and what is wrong."""
    where = _without_secrets(url)
    try:
        client: Any = connect(url)
        info = client.info()
    except AuthenticationError:
        return None, [
            fail(
                "redis",
                f"{where} wants another user or password: UPWEIGHT_REDIS_URL=redis://:PASSWORD@…",
            )
        ]
    except (RedisError, OSError, ValueError) as error:
        return None, [
            fail(
                "redis",
                f"{where} does not answer ({error}); set UPWEIGHT_REDIS_URL, or `upweight serve`",
            )
        ]
    version = str(info.get("redis_version", "?"))
    found = [ok("redis", f"{where} answers, version {version}")]
    if tuple(int(part) for part in version.split(".")[:2] if part.isdigit()) < OLDEST:
        found.append(warn("redis", f"version {version} is older than 7.0, and was not tried"))
    return client, [*found, _persistence(client, info), *_memory(client, info), _clock(client)]


def _persistence(client: Any, info: dict[str, Any]) -> Finding:
    if not info.get("aof_enabled"):
        return fail(
            "persistence",
            "Redis keeps no append-only file: a restart of it loses jobs and records (`upweight reindex` brings back "
            "what the storage has); set 'appendonly yes'",
        )
    if info.get("aof_last_write_status") != "ok":
        return fail(
            "persistence",
            "Redis could not write its append-only file; see its log, and the disk's space",
        )
    return ok("persistence", "append-only file")


def _memory(client: Any, info: dict[str, Any]) -> list[Finding]:
    policy = str(info.get("maxmemory_policy", "noeviction"))
    if policy != "noeviction" and int(info.get("maxmemory", 0)):
        return [
            fail(
                "memory",
                f"Redis throws away keys when it is full ({policy}); set 'maxmemory-policy noeviction'",
            )
        ]
    return []


def _clock(client: Any) -> Finding:
    before = time.time()
    seconds, micros = client.time()
    skew = seconds + micros / 1e6 - (before + time.time()) / 2
    if abs(skew) > SKEW_SECONDS:
        return warn("clock", f"Redis's clock is {skew:+.1f} s from this machine's; set both by NTP")
    return ok("clock", f"{skew * 1000:+.0f} ms from Redis's")


def _without_secrets(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname or ''}{f':{parts.port}' if parts.port else ''}{parts.path}"
