"""Ports of this machine."""

from __future__ import annotations

import socket
import sys

_kept: list[socket.socket] = []


def free_port(host: str) -> int:
    """A port that nobody listens on.

    On Linux it is kept for this process's servers, until the process ends: the system gives it to nobody who asks
    for any port or makes a connection, neither before our server listens there nor while that is started again.
    """
    listener = _listener(host, 0)
    port = int(listener.getsockname()[1])
    if sys.platform == "linux":
        _kept.append(listener)  # bound and not listening: whoever names the port may listen there
    else:
        listener.close()
    return port


def is_free(host: str, port: int) -> bool:
    """Whether a server could listen there now."""
    try:
        _listener(host, port).close()
    except OSError:
        return False
    return True


def _listener(host: str, port: int) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    listener = socket.socket(family, kind, protocol)
    try:
        # As servers do: connections of the one before, in their last minute, do not hold the port.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError:
        listener.close()
        raise
    return listener
