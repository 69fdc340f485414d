"""What the key is good for."""

from __future__ import annotations

from upweight.http.flow import Call, Flow
from upweight.schema import Access


def access() -> Flow[Access]:
    """The namespace and role that the service sees."""
    reply = yield Call("GET", "/v1/access")
    return reply.read(Access)
