"""What the service says of itself and of the caller."""

from __future__ import annotations

from upweight.http.flow import Call, Flow
from upweight.schema import Access, Health


def access() -> Flow[Access]:
    """The namespace and role that the service sees."""
    reply = yield Call("GET", "/v1/access")
    return reply.read(Access)


def ready() -> Flow[Health]:
    """Which parts work; a service that is not ready answers 503 with them, which is no error here."""
    reply = yield Call("GET", "/readyz", accepts=frozenset({503}))
    return reply.read(Health)
