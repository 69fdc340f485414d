"""Where a webhook goes: its URL read strictly, before anything is asked of the network."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from service.webhooks.addresses import Address, Network, is_open

_DEFAULT_PORTS = {"https": 443, "http": 80}
_WITHOUT = re.compile(r"[\x00-\x20\x7f-\x9f\\]")  # parsers disagree over these
_HOST = re.compile(r"^(?!-)[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*\.?$")
_HTTP_ALONE = "UPWEIGHT_WEBHOOK_HTTP"
_NETWORKS = "UPWEIGHT_WEBHOOK_NETWORKS"


class Refused(ValueError):
    """The words say why, and the way out."""


@dataclass(frozen=True)
class Policy:
    """What the operator allows beyond https to the open internet."""

    http: bool = False
    networks: Sequence[Network] = ()


@dataclass(frozen=True)
class Destination:
    """A URL in its parts, all of them harmless in a request line and a header."""

    scheme: str
    host: str
    port: int
    target: str  # path and query

    @classmethod
    def of(cls, url: str, policy: Policy) -> Destination:
        """Raises Refused."""
        if _WITHOUT.search(url):
            raise Refused(
                "has spaces, control characters or backslashes; encode them (%20), or leave them out"
            )
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise Refused(f"is no URL: {error}") from None
        scheme = parts.scheme.lower()
        _refuse_scheme(scheme, policy)
        if "@" in parts.netloc:
            raise Refused("has a user or password; webhooks are known by their signature instead")
        if parts.fragment or url.endswith("#"):
            raise Refused("has a fragment (#), which is never sent; leave it out")
        if port == 0:
            raise Refused("has port 0; leave the port out, or give the one that is listened to")
        host = _host(parts.hostname or "")
        made = cls(scheme, host, port or _DEFAULT_PORTS[scheme], _target(parts.path, parts.query))
        address = made.address
        if address is not None:
            refuse_address(address, policy)
        elif host.rstrip(".") == "localhost" or host.rstrip(".").endswith(".localhost"):
            refuse_address(ipaddress.ip_address("127.0.0.1"), policy)
        return made

    @property
    def address(self) -> Address | None:
        """Where the host is written as an address."""
        try:
            return ipaddress.ip_address(self.host)
        except ValueError:
            return None

    @property
    def authority(self) -> str:
        """For the header Host."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"

    def at(self, address: Address) -> str:
        """The URL with the address in the host's place, so that nobody resolves the host again."""
        host = f"[{address}]" if address.version == 6 else str(address)
        return f"{self.scheme}://{host}:{self.port}{self.target}"


def refuse_address(address: Address, policy: Policy) -> None:
    """Raises Refused unless a webhook may be sent there."""
    if not is_open(address, policy.networks):
        raise Refused(
            f"leads to {address}, which is private, local or reserved; use a public address, "
            f"or have the operator allow it ({_NETWORKS})"
        )


def _refuse_scheme(scheme: str, policy: Policy) -> None:
    if scheme == "https" or (scheme == "http" and policy.http):
        return
    if scheme == "http":
        raise Refused(
            f"must begin with https://: anybody on the way could read it; the operator may allow http ({_HTTP_ALONE})"
        )
    raise Refused("must begin with https://")


def _host(host: str) -> str:
    """In lower case and ASCII. Raises Refused."""
    if not host:
        raise Refused("has no host")
    if "%" in host:
        raise Refused("has a host with '%'; write it out")
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        pass
    try:
        plain = host.encode("idna").decode().lower()
    except UnicodeError:
        raise Refused("has a host that is no name of the internet") from None
    if len(plain) > 253 or not _HOST.fullmatch(plain):
        raise Refused("has a host that is no name of the internet")
    return plain


def _target(path: str, query: str) -> str:
    target = (path or "/") + (f"?{query}" if query else "")
    if not target.isascii():
        raise Refused("has characters beyond ASCII in its path; percent-encode them")
    return target
