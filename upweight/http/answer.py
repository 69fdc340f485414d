"""Reading answers: a refusal becomes the exception it stands for, whoever wrote it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

from pydantic import ValidationError

from upweight.errors import RequestInProgress, UpweightError, error_from
from upweight.schema import Problem

if TYPE_CHECKING:
    import httpx2


TRANSIENT = frozenset({429, 502, 503, 504})
HINTS = {
    401: "; give a valid key: UPWEIGHT_API_KEY or Client(api_key=…)",
    403: "; the key's role does not allow it",
}


class Collected:
    """A sink that keeps the body."""

    def __init__(self) -> None:
        self._chunks: list[bytes] = []

    def headers(self) -> Mapping[str, str]:
        return {}

    def begin(self, status: int, headers: Mapping[str, str]) -> None:
        self._chunks.clear()

    def write(self, chunk: bytes) -> None:
        self._chunks.append(chunk)

    def finish(self) -> None:
        pass

    def body(self) -> bytes:
        return b"".join(self._chunks)


def error_of(response: httpx2.Response) -> UpweightError:
    """The exception for an answer that is no success. Its body has been read."""
    problem = _problem(response)
    error = error_from(problem, retry_after(response.headers))
    error.request_id = problem.request_id or response.headers.get("x-request-id")
    return error


def retryable(error: UpweightError) -> bool:
    """Whether the same request may succeed a little later."""
    return error.status in TRANSIENT or isinstance(error, RequestInProgress)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that the service asks to wait: a number, or the time until a date."""
    text = headers.get("retry-after", "").strip()
    if not text:
        return None
    try:
        return max(0.0, float(text))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except ValueError:
        return None


def _problem(response: httpx2.Response) -> Problem:
    if response.headers.get("content-type", "").startswith("application/problem+json"):
        try:
            return Problem.model_validate_json(response.content)
        except ValidationError:
            pass
    return Problem(
        type="about:blank",
        title=response.reason_phrase or "Error",
        status=response.status_code,
        detail=_words(response),
    )


def _words(response: httpx2.Response) -> str:
    status = f"{response.status_code} {response.reason_phrase}".strip()
    request = f"{response.request.method} {response.request.url}"
    if response.is_redirect:
        return (
            f"{request} was redirected to {response.headers.get('location')}; "
            "give that address as UPWEIGHT_URL or Client(url=…)"
        )
    if response.request.method == "HEAD":  # its answers have no body, whoever gives them
        return f"{request} was answered {status}" + HINTS.get(response.status_code, "")
    shown = " ".join(response.text.split())[:200]
    return (
        f"{request} was answered {status} by something that is not an Upweight service, perhaps a proxy"
        + (f": {shown!r}" if shown else " (no body was sent)")
    )
