"""The front end's whole wiring."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import Depends, FastAPI
from starlette.concurrency import run_in_threadpool

from service import problems
from service.access import routes as access
from service.auth import HOW_TO_CREATE, Keys, is_loopback
from service.banks import routes as banks
from service.blobs import routes as blobs
from service.datasets import routes as datasets
from service.dependencies import known_query, reader
from service.docs import docs_routes
from service.explorer import explorer_routes
from service.health import routes as health
from service.indexes import routes as indexes
from service.jobs import routes as jobs
from service.logs import log
from service.metrics import Metrics
from service.models import routes as models
from service.openapi import DESCRIPTION, document
from service.parts import Parts
from service.requests import Requests
from service.results import routes as results
from service.settings import Settings
from service.storage.redis import connect
from service.tracing import Tracing
from service.webhooks import routes as webhooks
from upweight import __version__
from upweight.errors import Unavailable, UpweightError

KEYED = (blobs, models, datasets, jobs, results, indexes, banks, webhooks, access)


def create_app(settings: Settings) -> FastAPI:
    """The application. Starting it opens Redis and the object storage; ending it closes them."""
    metrics = Metrics()
    tracing = Tracing.open(settings, "front")

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await run_in_threadpool(refuse_openness, settings)
        try:
            parts = Parts.open(settings)
        except UpweightError as error:
            app.state.cannot_start = error.detail
            log("cannot-start", level="error", detail=error.detail)
            raise
        await run_in_threadpool(warn_of_lost_records, parts)
        app.state.parts = parts
        try:
            yield
        finally:
            parts.close()
            tracing.close()

    app = FastAPI(
        title="Upweight",
        version=__version__,
        summary="Influence functions as a service.",
        description=DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        webhooks=webhooks.outgoing,
        redirect_slashes=False,  # a redirect would lose bodies, and echo the Host header
    )
    app.state.metrics = metrics
    app.add_middleware(Requests, body_limit=settings.body_bytes, metrics=metrics, tracing=tracing)
    problems.install(app, [resource.router for resource in (*KEYED, health)])
    for resource in KEYED:  # who asks comes first, then what is asked
        app.include_router(resource.router, dependencies=[Depends(reader), Depends(known_query)])
    app.include_router(health.router)  # whatever a probe's address has beside its path
    docs_routes(app)
    explorer_routes(app)
    app.openapi = lambda: document(app)  # type: ignore[method-assign]
    return app


def warn_of_lost_records(parts: Parts) -> None:
    """A line in the log when Redis has not what the object storage has copies of."""
    try:
        if not parts.copies.whole():
            log(
                "records-lost",
                level="error",
                detail="Redis has lost records; run `upweight reindex`",
            )
    except Unavailable as error:
        log("records-not-seen", level="warning", detail=error.detail)


def refuse_openness(settings: Settings) -> None:
    """Raises Unavailable when the service would be open to other machines without a key."""
    if is_loopback(settings.host):
        return
    redis = connect(settings.redis_url)
    try:
        if not Keys(redis).any():
            raise Unavailable(
                f"no key is set, so the service may listen on loopback only, not on {settings.host}; "
                f"create a key first: {HOW_TO_CREATE}"
            )
    finally:
        redis.close()
