"""A real server on loopback that webhooks are sent to, and that behaves as it is told."""

from __future__ import annotations

import datetime
import ipaddress
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.patience import PATIENCE, until

Behaviour = Callable[[BaseHTTPRequestHandler], None]


@dataclass(frozen=True)
class Received:
    """One request."""

    path: str
    headers: dict[str, str]
    body: bytes
    at: float = field(default_factory=time.monotonic)


class Receiver:
    """What came in, and where to send it. `behave` answers the requests in turn, the last of them for ever."""

    def __init__(self, server: ThreadingHTTPServer, scheme: str) -> None:
        self.host, self.port = server.server_address[:2]
        self.scheme = scheme
        self.received: list[Received] = []
        self.behave: list[Behaviour] = [answering(204)]

    @property
    def url(self) -> str:
        """By its address."""
        return f"{self.scheme}://{self.host}:{self.port}/hook"

    def wait_for(self, count: int) -> list[Received]:
        """All that came in, once there are so many."""
        until(lambda: len(self.received) >= count, f"{count} did not come")
        return list(self.received)


def answering(status: int, **headers: str) -> Behaviour:
    """An answer without a body."""

    def behave(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return behave


def breaking_off(handler: BaseHTTPRequestHandler) -> None:
    """No answer at all."""
    handler.close_connection = True
    handler.connection.close()


def endless_body(handler: BaseHTTPRequestHandler) -> None:
    """Sends for ever, until the other side has had enough."""
    handler.send_response(200)
    handler.end_headers()
    try:
        while True:
            handler.wfile.write(b"x" * 65_536)
    except OSError:
        handler.close_connection = True


def dripping_headers(handler: BaseHTTPRequestHandler) -> None:
    """A byte now and then, until the server closes: no single wait is long."""
    server: Any = handler.server
    try:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
        while not server.closing.wait(0.1):
            handler.wfile.write(b"x")
    except OSError:
        pass
    handler.close_connection = True


class Server(ThreadingHTTPServer):
    """With a thread for each connection."""

    daemon_threads = True

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        super().__init__(address, handler)
        self.closing = threading.Event()


@contextmanager
def receiver(host: str = "127.0.0.1", port: int = 0, tls: Path | None = None) -> Iterator[Receiver]:
    """A server in threads, over TLS with a certificate from `certificate`."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
            headers = {name.lower(): value for name, value in self.headers.items()}
            made.received.append(Received(self.path, headers, body))
            number = min(len(made.received), len(made.behave)) - 1
            made.behave[number](self)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = Server((host, port), Handler)
    if tls is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tls)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    made = Receiver(server, "http" if tls is None else "https")
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield made
    finally:
        server.closing.set()
        server.shutdown()
        server.server_close()
        thread.join(PATIENCE)


def certificate(path: Path, *names: str) -> Path:
    """A certificate for names and addresses, with its key, that signs itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([_alternative(name) for name in names]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    path.write_bytes(private + made.public_bytes(serialization.Encoding.PEM))
    return path


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
