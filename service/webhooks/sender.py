"""One try to deliver: the host is resolved once, its addresses are judged, and the connection goes to one of them.

So a name that changes its mind (DNS rebinding) changes nothing. Redirects are not followed, proxies of the environment
are not used, the answer's body is not read, and the whole try has a deadline.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import httpx2

from service.webhooks.addresses import Address
from service.webhooks.destination import Destination, Policy, Refused, refuse_address
from upweight import __version__, webhooks

Resolver = Callable[[str, int], Awaitable[list[str]]]

_ADDRESSES_TRIED = 3
_RETRY_AFTER_MOST = 3600.0
_RESOLVING = ThreadPoolExecutor(
    8, thread_name_prefix="resolve"
)  # a slow name holds one for a while


@dataclass(frozen=True)
class Outcome:
    """What a try gave. `final`: trying again would be of no use."""

    delivered: bool = False
    final: bool = False
    status: int | None = None
    error: str | None = None
    retry_after: float = 0.0


async def resolve(host: str, port: int) -> list[str]:
    """A host's addresses, by the system's resolver. Raises OSError."""
    loop = asyncio.get_running_loop()
    found = await loop.run_in_executor(
        _RESOLVING, lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    )
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class Sender:
    """Sends to wherever the policy allows."""

    def __init__(self, policy: Policy, seconds: float, resolver: Resolver = resolve) -> None:
        self._policy = policy
        self._seconds = seconds
        self._resolve = resolver
        self._tls = ssl.create_default_context()

    async def send(self, url: str, id: str, body: bytes, secrets: Sequence[str]) -> Outcome:
        """One try, within its time. Raises nothing for what a receiver or a network may do."""
        try:
            destination = Destination.of(url, self._policy)
            async with asyncio.timeout(self._seconds):
                addresses = await self._addresses(destination)
                return await self._post(destination, addresses, _headers(id, body, secrets), body)
        except Refused as error:
            return Outcome(final=True, error=f"the address {error}")
        except TimeoutError:
            return Outcome(error=f"no answer within {self._seconds:g} s")
        except (OSError, UnicodeError) as error:
            return Outcome(error=f"the host can't be found: {error}")

    async def _addresses(self, destination: Destination) -> list[Address]:
        """Those of the host. Raises Refused when one of them may not be reached: the name is not to be trusted."""
        host = destination.host
        texts = [host] if destination.address else await self._resolve(host, destination.port)
        addresses = [ipaddress.ip_address(text) for text in texts]
        for address in addresses:
            refuse_address(address, self._policy)
        return addresses[:_ADDRESSES_TRIED]

    async def _post(
        self,
        destination: Destination,
        addresses: Sequence[Address],
        headers: Mapping[str, str],
        body: bytes,
    ) -> Outcome:
        outcome = Outcome(error="the host has no address")
        for address in addresses:
            try:
                return await self._post_to(address, destination, headers, body)
            except (httpx2.HTTPError, httpx2.InvalidURL, ssl.SSLError) as error:
                lines = str(error).strip().splitlines()
                words = lines[0][:200] if lines else type(error).__name__
                outcome = Outcome(error=f"the connection failed: {words}")
        return outcome

    async def _post_to(
        self,
        address: Address,
        destination: Destination,
        headers: Mapping[str, str],
        body: bytes,
    ) -> Outcome:
        transport = httpx2.AsyncHTTPTransport(verify=self._tls, trust_env=False, retries=0)
        timeout = httpx2.Timeout(self._seconds)
        async with httpx2.AsyncClient(
            transport=transport, trust_env=False, follow_redirects=False, timeout=timeout
        ) as client:
            request = client.build_request(
                "POST",
                destination.at(address),
                content=body,
                headers={**headers, "Host": destination.authority},
                # The certificate must be the host's, though its address is what is called.
                extensions={"sni_hostname": destination.host.rstrip(".")},
            )
            answer = await client.send(request, stream=True)
            await answer.aclose()  # the body is of no interest, however long
            return _outcome(answer)


def _headers(id: str, body: bytes, secrets: Sequence[str]) -> dict[str, str]:
    timestamp = str(int(time.time()))
    signatures = [webhooks.sign(secret, id, timestamp, body) for secret in secrets]
    return {
        "Content-Type": "application/json",
        "User-Agent": f"upweight/{__version__}",
        webhooks.ID: id,
        webhooks.TIMESTAMP: timestamp,
        webhooks.SIGNATURE: " ".join(signatures),
    }


def _outcome(answer: httpx2.Response) -> Outcome:
    status = answer.status_code
    if 200 <= status < 300:
        return Outcome(delivered=True, status=status)
    if 300 <= status < 400:
        words = "the answer was a redirect, which is not followed; give the final address"
        return Outcome(status=status, error=words)
    if status == 410:
        return Outcome(final=True, status=status, error="the receiver says that it is gone (410)")
    return Outcome(
        status=status,
        error=f"the receiver answered {status}; only 2xx counts as heard",
        retry_after=_seconds(answer.headers.get("retry-after", "")),
    )


def _seconds(retry_after: str) -> float:
    """The header's seconds, within reason; 0 for none and for a date."""
    return min(float(retry_after), _RETRY_AFTER_MOST) if retry_after.isdecimal() else 0.0
