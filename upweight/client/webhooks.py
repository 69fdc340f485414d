"""Webhooks: by what they are signed, and what became of those of a job."""

from __future__ import annotations

from dataclasses import dataclass

from upweight.http.flow import Call, Flow, segment
from upweight.http.transport import AsyncTransport, Transport
from upweight.schema import Deliveries, Delivery, WebhookSecret

PATH = "/v1/webhooks/secret"


def secret() -> Flow[str]:
    """The secret of the key's namespace."""
    reply = yield Call("GET", PATH)
    return reply.read(WebhookSecret).secret


def rotate() -> Flow[str]:
    """A new one."""
    reply = yield Call("POST", f"{PATH}/rotate", once=True)
    return reply.read(WebhookSecret).secret


def deliveries(job: str) -> Flow[list[Delivery]]:
    """Of one job, the oldest first."""
    reply = yield Call("GET", f"/v1/jobs/{segment(job)}/deliveries")
    return reply.read(Deliveries).items


@dataclass(frozen=True)
class Webhooks:
    """`client.webhooks`. Both calls need a key of the role `admin`."""

    _link: Transport

    def secret(self) -> str:
        """By what this namespace's webhooks are signed; give it to `upweight.verify_webhook`."""
        return self._link.run(secret())

    def rotate_secret(self) -> str:
        """A new secret. For a day webhooks are signed by both, so that receivers can be changed in between.

        Not repeated where the connection is lost: ask for `secret` then.
        """
        return self._link.run(rotate())


@dataclass(frozen=True)
class AsyncWebhooks:
    """`client.webhooks` of an AsyncClient."""

    _link: AsyncTransport

    async def secret(self) -> str:
        """By what this namespace's webhooks are signed; give it to `upweight.verify_webhook`."""
        return await self._link.run(secret())

    async def rotate_secret(self) -> str:
        """A new secret. For a day webhooks are signed by both, so that receivers can be changed in between.

        The rest is as for `Webhooks.rotate_secret`.
        """
        return await self._link.run(rotate())
