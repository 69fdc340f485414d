"""A proxy on loopback between the service and a server, that refuses, resets, slows or cuts connections at will."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from service.local.ports import free_port

_PIECE = 16_384
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: closing sends RST


class CuttingProxy:
    """Passes on to a port of this machine. `mode` may be changed at any time."""

    def __init__(self, target: int) -> None:
        self._target = target
        self.mode = "through"  # or "refuse", "slow", "cut": in the middle of what the client sends
        self.cut = 0
        self.to_reset = 0  # so many connections more, each after the first bytes it brought
        self.answers_to_reset = 0  # as many, each once the server has answered, and nobody is told
        self._live: set[socket.socket] = set()
        self._counting = threading.Lock()
        self.port = free_port("127.0.0.1")  # nobody else is given it while this is away
        self._listening = socket.create_server(("127.0.0.1", self.port))
        self._listen()

    @property
    def endpoint(self) -> str:
        """The address of an HTTP server behind it."""
        return f"http://127.0.0.1:{self.port}"

    @contextmanager
    def away(self) -> Iterator[None]:
        """As when the server's machine is started again: connections are reset, and then refused."""
        self._listening.shutdown(socket.SHUT_RDWR)  # wakes the thread that waits for connections
        self._listening.close()
        # Bound and not listening: it refuses.
        self._listening = socket.socket()
        self._listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listening.bind(("127.0.0.1", self.port))
        for client in list(self._live):
            self._reset(client)
        try:
            yield
        finally:
            self._listening.listen()
            self._listen()

    def _listen(self) -> None:
        threading.Thread(target=self._accept, args=(self._listening,), daemon=True).start()

    def _reset(self, client: socket.socket) -> None:
        self.cut += 1
        with suppress(OSError):
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            # A thread that waits in recv keeps the connection open after close; this ends its waiting, too.
            client.shutdown(socket.SHUT_RD)
            client.close()

    def close(self) -> None:
        """Takes no more connections."""
        self._listening.close()

    def _accept(self, listening: socket.socket) -> None:
        while True:
            try:
                client, _ = listening.accept()
            except OSError:
                return
            if self.mode == "refuse":
                client.close()
                continue
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        self._live.add(client)
        try:
            self._served(client)
        finally:
            self._live.discard(client)

    def _served(self, client: socket.socket) -> None:
        with client, suppress(OSError):
            server = socket.create_connection(("127.0.0.1", self._target))
            with server:
                back = threading.Thread(target=self._pass_on, args=(server, client), daemon=True)
                back.start()
                self._pass_on(client, server, sent_by_client=True)
                back.join()

    def _is_to_reset(self, count: str) -> bool:
        """Whether this is one of so many, which are one fewer then."""
        with self._counting:
            left: int = getattr(self, count)
            setattr(self, count, max(0, left - 1))
        return left > 0

    def _pass_on(
        self, source: socket.socket, sink: socket.socket, *, sent_by_client: bool = False
    ) -> None:
        passed = 0
        with suppress(OSError):
            while piece := source.recv(_PIECE):
                if self.mode == "slow":
                    time.sleep(0.05)
                passed += len(piece)
                if self._is_to_reset("to_reset" if sent_by_client else "answers_to_reset"):
                    self._reset(source if sent_by_client else sink)
                    break
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
