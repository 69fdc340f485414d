"""A real HTTP server on a free port that answers as it is told, faults included, and remembers what it was asked."""

from __future__ import annotations

import json
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit


@dataclass
class Asked:
    """A request as it came."""

    method: str
    path: str
    query: list[tuple[str, str]]
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


Answer = Callable[["Handler", Asked], None]


def answer(status: int = 200, body: Any = None, **headers: Any) -> Answer:
    """An ordinary answer: JSON, or bytes as they are. `Retry_After=1` is the header Retry-After."""
    content = (
        body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    )

    def give(handler: Handler, asked: Asked) -> None:
        handler.send_response(status)
        given = {"Content-Type": "application/json", "Content-Length": str(len(content))}
        for name, value in {
            **given,
            **{k.replace("_", "-"): v for k, v in headers.items()},
        }.items():
            handler.send_header(name, str(value))
        handler.end_headers()
        if asked.method != "HEAD":
            handler.wfile.write(content)

    return give


def problem(status: int, type: str, detail: str, **headers: Any) -> Answer:
    """A problem document."""
    body = {"type": type, "title": type, "status": status, "detail": detail}
    return answer(status, body, Content_Type="application/problem+json", **headers)


def dropped(handler: Handler, asked: Asked) -> None:
    """Hangs up without a word."""
    handler.close_connection = True


def cut(body: bytes, after: int, **headers: Any) -> Answer:
    """Announces the whole body and hangs up in the midst of it."""

    def give(handler: Handler, asked: Asked) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), str(value))
        handler.end_headers()
        handler.wfile.write(body[:after])
        handler.close_connection = True

    return give


def late(seconds: float, then: Answer) -> Answer:
    """Answers after a while."""

    def give(handler: Handler, asked: Asked) -> None:
        handler.server.stopping.wait(seconds)
        then(handler, asked)

    return give


def events(*records: dict[str, Any]) -> Answer:
    """A stream of job records, ended (or lost, if none is terminal) after the last."""

    def give(handler: Handler, asked: Asked) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "text/event-stream")
        handler.end_headers()
        handler.wfile.write(b": keep-alive\n\n")
        for record in records:
            line = f"event: job\nid: {record['revision']}\ndata: {json.dumps(record)}\n\n"
            handler.wfile.write(line.encode())
        handler.close_connection = True

    return give


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server  # type: ignore[assignment]

    def log_message(self, *args: Any) -> None:
        pass

    def _serve(self) -> None:
        url = urlsplit(self.path)
        headers = {name.lower(): value for name, value in self.headers.items()}
        asked = Asked(self.command, url.path, parse_qsl(url.query), headers, self._body(headers))
        self.server.asked.append(asked)
        self.server.next_answer(asked)(self, asked)

    def _body(self, headers: dict[str, str]) -> bytes:
        if headers.get("transfer-encoding") != "chunked":
            return self.rfile.read(int(headers.get("content-length", 0)))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _serve


@dataclass
class Script:
    """The answers to one method and path, in turn; the last one stays."""

    answers: deque[Answer] = field(default_factory=deque)

    def turn(self) -> Answer:
        return self.answers.popleft() if len(self.answers) > 1 else self.answers[0]


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[Asked] = []
        self.stopping = threading.Event()
        self._scripts: dict[tuple[str, str], Script] = defaultdict(Script)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def on(self, method: str, path: str, *answers: Answer) -> None:
        self._scripts[method, path] = Script(deque(answers))

    def next_answer(self, asked: Asked) -> Answer:
        if (asked.method, asked.path) not in self._scripts:
            return problem(404, "not-found", f"nothing at {asked.method} {asked.path}")
        return self._scripts[asked.method, asked.path].turn()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up are part of the tests."""


@contextmanager
def running() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.stopping.set()
        server.shutdown()
        server.server_close()
        thread.join()
