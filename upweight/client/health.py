"""Whether the service is ready."""

from __future__ import annotations

from upweight.http.flow import Call, Flow
from upweight.schema import Health


def ready() -> Flow[Health]:
    """The service's own words; a service that is not ready answers 503 with them, which is no error here."""
    reply = yield Call("GET", "/readyz", accepts=frozenset({503}))
    return reply.read(Health)
