"""A collector of OpenTelemetry spans, in this process: it receives real protobufs over HTTP."""

from __future__ import annotations

import gzip
import threading
import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from tests.patience import PATIENCE


@dataclass(frozen=True)
class Received:
    """A span as it came in."""

    service: str
    name: str
    trace: str
    id: str
    parent: str
    seconds: float
    attributes: dict[str, Any]


class Collector:
    """Listens on loopback while it is open."""

    def __init__(self) -> None:
        self.spans: list[Received] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                assert self.path == "/v1/traces"
                collector.spans += _spans(ExportTraceServiceRequest.FromString(body))
                self.send_response(200)
                self.send_header("Content-Type", "application/x-protobuf")
                self.end_headers()
                self.wfile.write(ExportTraceServiceResponse().SerializeToString())

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    def of(self, trace: str, names: set[str], seconds: float = PATIENCE) -> dict[str, Received]:
        """The spans of a trace by name, once all of these have come."""
        deadline = time.monotonic() + seconds
        while True:
            found = {span.name: span for span in list(self.spans) if span.trace == trace}
            if names <= set(found):
                return found
            assert time.monotonic() < deadline, sorted(found)
            time.sleep(0.05)

    def named(self, trace: str, name: str) -> list[Received]:
        """All spans of a trace that have a name."""
        return [span for span in list(self.spans) if (span.trace, span.name) == (trace, name)]


def _spans(request: ExportTraceServiceRequest) -> list[Received]:
    return [
        Received(
            service=next(
                each.value.string_value
                for each in resource.resource.attributes
                if each.key == "service.name"
            ),
            name=span.name,
            trace=span.trace_id.hex(),
            id=span.span_id.hex(),
            parent=span.parent_span_id.hex(),
            seconds=(span.end_time_unix_nano - span.start_time_unix_nano) / 1e9,
            attributes={
                each.key: each.value.string_value or each.value.int_value
                for each in span.attributes
            },
        )
        for resource in request.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]
