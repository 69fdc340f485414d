"""A proxy on loopback between the service and a server, that refuses, slows or cuts the connections at will."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_PIECE = 16_384


class CuttingProxy:
    """Passes on to a port of this machine. `mode` may be changed at any time."""

    def __init__(self, target: int) -> None:
        self._target = target
        self.mode = "through"  # or "refuse", "slow", "cut": in the middle of what the client sends
        self.cut = 0
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listening.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Takes no more connections."""
        self._listening.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            if self.mode == "refuse":
                client.close()
                continue
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, suppress(OSError):
            server = socket.create_connection(("127.0.0.1", self._target), 5)
            with server:
                back = threading.Thread(target=self._pass_on, args=(server, client), daemon=True)
                back.start()
                self._pass_on(client, server, sent_by_client=True)
                back.join()

    def _pass_on(
        self, source: socket.socket, sink: socket.socket, *, sent_by_client: bool = False
    ) -> None:
        passed = 0
        with suppress(OSError):
            while piece := source.recv(_PIECE):
                if self.mode == "slow":
                    time.sleep(0.05)
                passed += len(piece)
                broken = self.mode == "refuse" or (
                    self.mode == "cut" and sent_by_client and passed > 2 * _PIECE
                )
                if broken:
                    self.cut += 1
                    break
                sink.sendall(piece)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@contextmanager
def cutting_proxy(target: int) -> Iterator[CuttingProxy]:
    """For as long as the context is open."""
    proxy = CuttingProxy(target)
    try:
        yield proxy
    finally:
        proxy.close()
