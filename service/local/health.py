"""Asking the front end whether it and what it needs are ready."""

from __future__ import annotations

import http.client


def is_ready(host: str, port: int) -> bool:
    """Whether `/readyz` answers 200: Redis, object storage and a worker can be reached.

    A bare connection, since a proxy that the environment names has no business with our own machine.
    """
    connection = http.client.HTTPConnection(host, port, timeout=5.0)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def reachable(host: str) -> str:
    """The address at which this machine reaches a server that listens on `host`."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)


def address(host: str, port: int) -> str:
    """The front end's base URL for this machine."""
    name = reachable(host)
    return f"http://[{name}]:{port}" if ":" in name else f"http://{name}:{port}"
