"""Traces by OpenTelemetry, off unless `UPWEIGHT_TRACES` names a collector: from the request through RQ to each task
and its stages. Needs `pip install 'upweight[tracing]'`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from service.settings import Settings
from upweight import __version__
from upweight.errors import Unavailable

_at_work: ContextVar[Tracing | None] = ContextVar("at_work", default=None)


class Span:
    """A span at work; all of it does nothing where traces are off."""

    def __init__(self, span: Any = None) -> None:
        self._span = span

    @property
    def traceparent(self) -> str | None:
        """This span as a W3C header, for what it causes elsewhere."""
        if self._span is None:
            return None
        context = self._span.get_span_context()
        return f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags):02x}"

    def named(self, name: str, **attributes: str | int | float | None) -> None:
        """What is known only at its end."""
        if self._span is not None:
            self._span.update_name(name)
            self._span.set_attributes(
                {key: value for key, value in attributes.items() if value is not None}
            )

    def failed(self, description: str) -> None:
        """Marks it as failed."""
        if self._span is not None:
            from opentelemetry.trace import StatusCode

            self._span.set_status(StatusCode.ERROR, description)

    def end(self) -> None:
        """Ends a span that no block ends."""
        if self._span is not None:
            self._span.end()


class Tracing:
    """The traces of one process."""

    def __init__(self, provider: Any = None) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("upweight", __version__) if provider else None

    @classmethod
    def open(cls, settings: Settings, process: str) -> Tracing:
        """What the settings ask for. Raises Unavailable when the packages it needs are not installed."""
        if not settings.traces:  # compose sets an empty one
            return cls()
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
            from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
        except ImportError as missing:
            raise Unavailable(
                "UPWEIGHT_TRACES is set, and OpenTelemetry is not installed: pip install 'upweight[tracing]'"
            ) from missing
        resource = Resource.create(
            {"service.name": f"upweight-{process}", "service.version": __version__}
        )
        provider = TracerProvider(
            resource=resource, sampler=ParentBased(TraceIdRatioBased(settings.traces_ratio))
        )
        endpoint = f"{settings.traces.rstrip('/')}/v1/traces"
        provider.add_span_processor(
            BatchSpanProcessor(
                OTLPSpanExporter(endpoint=endpoint, timeout=5), schedule_delay_millis=1000
            )
        )
        return cls(provider)

    @contextmanager
    def span(
        self, name: str, *, parent: str | None = None, server: bool = False, **attributes: Any
    ) -> Iterator[Span]:
        """A span for a block, below the traceparent given or the span that is at work."""
        if self._tracer is None:
            yield Span()
            return
        from opentelemetry.trace import SpanKind

        token = _at_work.set(self)
        try:
            with self._tracer.start_as_current_span(
                name,
                context=_context(parent),
                kind=SpanKind.SERVER if server else SpanKind.INTERNAL,
                attributes={key: value for key, value in attributes.items() if value is not None},
            ) as span:
                yield Span(span)
        finally:
            _at_work.reset(token)

    def begun(self, name: str) -> Span:
        """A span below the one that is at work, to be ended by hand."""
        return Span(self._tracer.start_span(name) if self._tracer is not None else None)

    def close(self) -> None:
        """Sends what has not been sent."""
        if self._provider is not None:
            self._provider.shutdown()


class Stages:
    """The stages of a task as spans below the task's, one after the other."""

    def __init__(self) -> None:
        self._name: str | None = None
        self._span = Span()

    def enter(self, name: str) -> None:
        """Another stage begins, if it is another."""
        tracing = _at_work.get()
        if tracing is None or name == self._name:
            return
        self._span.end()
        self._name, self._span = name, tracing.begun(name)

    def close(self) -> None:
        """The last one ends."""
        self._span.end()
        self._name, self._span = None, Span()


def _context(parent: str | None) -> Any:
    if parent is None:
        return None
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    return TraceContextTextMapPropagator().extract({"traceparent": parent})
