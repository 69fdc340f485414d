"""A chosen port is nobody else's."""

from __future__ import annotations

import socket
import sys

import pytest

from service.local.ports import free_port, is_free

HOST = "127.0.0.1"


def listening(port: int) -> socket.socket:
    """As our servers do."""
    return socket.create_server((HOST, port))


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a port can't be kept for another")
def test_it_is_kept_for_a_server_of_ours_before_it_listens_and_between_two() -> None:
    port = free_port(HOST)
    for _ in range(2):
        # The system gives out ports by the rule that it refuses this by.
        with socket.socket() as other, pytest.raises(OSError, match="in use"):
            other.bind((HOST, port))
        assert is_free(HOST, port)
        with listening(port) as server, socket.create_connection((HOST, port)) as client:
            assert not is_free(HOST, port)
            accepted, _ = server.accept()
            accepted.close()
            assert client.recv(1) == b""
    with socket.socket() as client, pytest.raises(ConnectionRefusedError):
        client.connect((HOST, port))


def test_a_port_that_somebody_listens_on_is_not_free() -> None:
    with listening(0) as server:
        assert not is_free(HOST, server.getsockname()[1])
