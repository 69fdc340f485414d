"""The things the service needs, each asked in turn."""

from __future__ import annotations

from collections.abc import Callable

from redis.exceptions import RedisError

from service.parts import Parts
from service.storage.workers import alive
from upweight import __version__
from upweight.errors import UpweightError
from upweight.schema import ComponentHealth, Health


def health(parts: Parts) -> Health:
    """What is there and what is missing."""
    components = [
        _asked("redis", lambda: _redis(parts)),
        _asked("storage", lambda: _storage(parts)),
        _asked("workers", lambda: _workers(parts)),
    ]
    return Health(
        ready=all(component.ready for component in components),
        version=__version__,
        components=components,
    )


def _asked(name: str, question: Callable[[], ComponentHealth]) -> ComponentHealth:
    try:
        return question()
    except (UpweightError, RedisError) as error:
        detail = error.detail if isinstance(error, UpweightError) else "does not answer"
        return ComponentHealth.model_validate({"name": name, "ready": False, "detail": detail})


def _redis(parts: Parts) -> ComponentHealth:
    parts.redis.ping()
    return ComponentHealth(name="redis", ready=True, detail="answers")


def _storage(parts: Parts) -> ComponentHealth:
    parts.objects.head("self-test/absent")
    return ComponentHealth(name="storage", ready=True, detail="answers")


def _workers(parts: Parts) -> ComponentHealth:
    count = len(alive(parts.redis))
    if count == 0:
        return ComponentHealth(
            name="workers", ready=False, detail="none is alive; start one: python -m workers"
        )
    return ComponentHealth(name="workers", ready=True, detail=f"{count} alive")
