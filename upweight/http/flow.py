"""What the client's work is made of: flows that yield steps and receive their outcomes.

A flow says what to send and what to make of the answer; how it is sent, blocking or not, is the driver's matter
(`upweight.http.transport`). So `Client` and `AsyncClient` share every line that builds a request or reads an answer.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar
from urllib.parse import quote

from pydantic import BaseModel, TypeAdapter, ValidationError

from upweight.errors import UpweightError

T = TypeVar("T")
Query = Sequence[tuple[str, str]]


class UnexpectedAnswer(UpweightError):
    """An answer that Upweight does not give: another service, a proxy, or a much newer version."""

    type, title, status = "unexpected-answer", "The answer was not understood", 0


class Sink(Protocol):
    """Where an answer's body goes while it arrives. `begin` is called anew for each attempt."""

    def headers(self) -> Mapping[str, str]: ...
    def begin(self, status: int, headers: Mapping[str, str]) -> None: ...
    def write(self, chunk: bytes) -> None: ...
    def finish(self) -> None: ...


@dataclass(frozen=True)
class Call:
    """One request. `content` makes the body's chunks anew for each attempt."""

    method: str
    path: str
    query: Query = ()
    json: Any = None
    content: Callable[[], Iterable[bytes]] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    sink: Sink | None = None
    accepts: frozenset[int] = frozenset()  # statuses that are answers here, not failures
    once: bool = False  # never sent again: doing it twice is not doing it once
    creates: bool = False  # gets an Idempotency-Key, so that sending it twice creates once


@dataclass(frozen=True)
class Pause:
    """Nothing for a while."""

    seconds: float


@dataclass(frozen=True)
class Work:
    """Something that takes time on this machine; an event loop gives it to a thread."""

    do: Callable[[], Any]


@dataclass(frozen=True)
class Reply:
    """An answer; `body` is empty when a sink took it."""

    status: int
    headers: Mapping[str, str]
    body: bytes = b""

    def read(self, kind: type[T] | TypeAdapter[T]) -> T:
        """The body as a model of the contract."""
        try:
            if isinstance(kind, TypeAdapter):
                return kind.validate_json(self.body)
            if issubclass(kind, BaseModel):
                return kind.model_validate_json(self.body)
            return TypeAdapter(kind).validate_json(self.body)
        except ValidationError as exc:
            raise UnexpectedAnswer(
                f"the answer is not a {getattr(kind, '__name__', kind)} as this version of the SDK knows it "
                f"({exc.error_count()} differences, the first: {exc.errors()[0]['msg']}); is an Upweight "
                "service at this URL, and is the SDK as new as the service?",
                request_id=self.headers.get("x-request-id"),
            ) from exc


Step = Call | Pause | Work
Flow = Generator[Step, Any, T]


def segment(reference: str) -> str:
    """A reference as a part of a path; what could change the path is escaped."""
    return quote(reference, safe="@:")
