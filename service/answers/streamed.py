"""The formats that numbers are streamed in, however many they are."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from starlette.responses import StreamingResponse

from service.answers.arrow import arrow_response
from service.answers.formats import Numbers, npy_response

STREAMED: Mapping[str, Callable[[Numbers], StreamingResponse]] = {
    "npy": npy_response,
    "arrow": arrow_response,
}
