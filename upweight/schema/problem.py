"""RFC 9457 problem documents: how every failure looks on the wire, in a job's record and in the SDK."""

from __future__ import annotations

from pydantic import Field, JsonValue

from upweight.schema.base import Answer


class FieldError(Answer):
    """One field that is wrong."""

    pointer: str = Field(
        description="JSON pointer into the body (`/inversion/rtol`), or `query:`, `header:`, `path:` and a name."
    )
    detail: str = Field(description="What is wrong and what would be right.")
    value: JsonValue = Field(None, description="The value that was given, shortened.")
    suggestion: JsonValue = Field(
        None, description="A value that would do, where the computation has found one."
    )


class Progress(Answer):
    """How far the present stage is."""

    done: int
    total: int
    unit: str
    fraction: float | None = Field(
        None,
        description="Of a stage with what is inside of its blocks, or of its step, in hand: 0 to 1.",
    )


class Problem(Answer):
    """A problem document, `application/problem+json`."""

    type: str = Field(
        description="Stable identifier of the kind of problem.", examples=["not-found"]
    )
    title: str = Field(
        description="The kind of problem in words; the same for every problem of a type."
    )
    status: int = Field(description="HTTP status.")
    detail: str = Field(description="What happened this time, and what to do.")
    errors: list[FieldError] = []
    progress: Progress | None = Field(
        None, description="With `result-not-ready`: how far a running job is."
    )
    request_id: str | None = None
