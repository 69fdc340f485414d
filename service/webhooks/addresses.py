"""Which addresses a webhook may reach: those of the open internet, and those that the operator has allowed.

The standard library's `is_global` has changed between patch releases; what is refused is therefore written out here
on top of it.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_REFUSED: tuple[Network, ...] = tuple(
    ipaddress.ip_network(text)
    for text in (
        "0.0.0.0/8",  # this network
        "10.0.0.0/8",
        "100.64.0.0/10",  # carriers' own
        "127.0.0.0/8",
        "169.254.0.0/16",  # link-local: clouds answer with credentials here
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",  # relays of 6to4
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",  # and broadcast
        "::/96",  # unspecified, loopback, and IPv4 written in an old way
        "::ffff:0:0/96",  # IPv4 in disguise
        "::ffff:0:0:0/96",
        "64:ff9b::/96",  # translated to IPv4
        "64:ff9b:1::/48",
        "100::/64",
        "2001::/23",  # Teredo and other special uses
        "2001:db8::/32",
        "2002::/16",  # 6to4: an IPv4 address inside
        "3fff::/20",
        "5f00::/16",
        "fc00::/7",
        "fe80::/10",
        "fec0::/10",
        "ff00::/8",
    )
)


def is_open(address: Address, allowed: Sequence[Network] = ()) -> bool:
    """Whether a webhook may be sent there. `allowed` are the operator's exceptions."""
    if any(address in network for network in allowed):
        return True
    if any(address in network for network in _REFUSED):
        return False
    return address.is_global and not address.is_multicast
