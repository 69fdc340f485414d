"""Whether the process lives, whether the service can work, and its metrics."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from service.dependencies import PartsNow
from service.health.components import health
from service.metrics import Metrics
from service.problems import documented
from upweight.errors import InternalError, Unavailable
from upweight.schema import Health

router = APIRouter(tags=["Health"], responses=documented(InternalError))


@router.get("/healthz")
async def alive() -> dict[str, bool]:
    """Whether the process answers; asks nothing of anything else."""
    return {"alive": True}


@router.get("/readyz", responses={503: {"model": Health, "description": "Something is missing."}})
def ready(parts: PartsNow, response: Response) -> Health:
    """Whether Redis, the object storage and at least one worker can be reached; which of them not."""
    found = health(parts)
    response.status_code = 200 if found.ready else 503
    return found


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {}}}, **documented(Unavailable)},
)
def metrics(request: Request, parts: PartsNow) -> Response:
    """Metrics in Prometheus's text format."""
    counted: Metrics = request.app.state.metrics
    return Response(
        counted.exposition(parts), media_type="text/plain; version=0.0.4; charset=utf-8"
    )
