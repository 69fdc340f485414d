"""Whether the process lives, whether the service can work, and its metrics."""

from __future__ import annotations

from collections.abc import Callable

from fastapi import APIRouter, Request, Response
from redis.exceptions import RedisError

from service.dependencies import PartsNow
from service.metrics import Metrics
from service.parts import Parts
from service.problems import documented
from service.storage.workers import alive as living
from upweight import __version__
from upweight.errors import InternalError, Unavailable, UpweightError
from upweight.schema import ComponentHealth, Health

router = APIRouter(tags=["Health"], responses=documented(InternalError))


@router.get("/healthz", summary="Ask whether the process answers")
async def alive() -> dict[str, bool]:
    """Whether the process answers; asks nothing of anything else."""
    return {"alive": True}


@router.get(
    "/readyz",
    summary="Ask whether the service can work",
    responses={503: {"model": Health, "description": "Something is missing."}},
)
def ready(parts: PartsNow, response: Response) -> Health:
    """Whether Redis, the object storage and at least one worker can be reached; which of them not."""
    found = health(parts)
    response.status_code = 200 if found.ready else 503
    return found


@router.get(
    "/metrics",
    summary="Metrics for Prometheus",
    response_class=Response,
    responses={200: {"content": {"text/plain": {}}}, **documented(Unavailable)},
)
def metrics(request: Request, parts: PartsNow) -> Response:
    """Metrics in Prometheus's text format."""
    counted: Metrics = request.app.state.metrics
    return Response(
        counted.exposition(parts), media_type="text/plain; version=0.0.4; charset=utf-8"
    )


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
    count = len(living(parts.redis))
    if count == 0:
        return ComponentHealth(
            name="workers", ready=False, detail="none is alive; start one: python -m workers"
        )
    return ComponentHealth(name="workers", ready=True, detail=f"{count} alive")
