"""What every part of the contract shares: strictness of requests, identifiers, names, labels."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

# Of the tasks: grows when workers of before could no longer do the jobs of now, or would store something else.
CONTRACT = 7
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"
DIGEST_PATTERN = r"^sha256:[0-9a-f]{64}$"
REFERENCE_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}(@[1-9][0-9]{0,8})?$"
LABEL_KEY_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,63}$"
MAXIMUM_LABELS = 16
# Parameter globs, column names and class names are shown to people and go into logs.
PRINTABLE = re.compile(r"^[^\x00-\x1f\x7f]+$")


class Request(BaseModel):
    """A part of a request: an unknown field is an error, never ignored; no NaN, no infinity."""

    model_config = ConfigDict(
        extra="forbid", allow_inf_nan=False, frozen=True, validate_default=True
    )


class Answer(BaseModel):
    """A part of an answer: fields that a newer service adds are kept, so that older clients work."""

    model_config = ConfigDict(extra="allow")


def _printable(text: str) -> str:
    if not PRINTABLE.fullmatch(text):
        raise ValueError("control characters are not allowed; use printable characters only")
    return text


def first_repeated(names: Sequence[str]) -> str | None:
    """The first name that is there a second time."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None


PositiveInt = Annotated[int, Field(strict=True, ge=1, le=2**31 - 1)]
Contract = Annotated[
    int,
    Field(
        description="The contract between service and workers under which it was made; an older worker leaves it "
        "to a newer one.",
    ),
]
Name = Annotated[
    str,
    StringConstraints(pattern=NAME_PATTERN),
    Field(
        description="1 to 128 letters, digits, '.', '_' or '-', beginning with a letter or digit."
    ),
]
Reference = Annotated[
    str,
    StringConstraints(pattern=REFERENCE_PATTERN),
    Field(
        description="An id, a name (its newest version is meant), or a name with a version: `digits-cnn@3`."
    ),
]
Digest = Annotated[
    str,
    StringConstraints(pattern=DIGEST_PATTERN),
    Field(
        description="The content address of a blob: `sha256:` and 64 hexadecimal digits in lower case."
    ),
]
Text = Annotated[str, StringConstraints(min_length=1, max_length=256), AfterValidator(_printable)]


def _labels(labels: dict[str, str]) -> dict[str, str]:
    for key in labels:
        if not re.fullmatch(LABEL_KEY_PATTERN, key):
            raise ValueError(f"label key {key!r} must match {LABEL_KEY_PATTERN}")
    return labels


def _lines(text: str) -> str:
    for line in text.split("\n"):
        if line:
            _printable(line)
    return text


JobName = Annotated[
    str,
    StringConstraints(min_length=1, max_length=120, strip_whitespace=True),
    AfterValidator(_printable),
    Field(description="What people call the job, in up to 120 characters."),
]
Note = Annotated[
    str,
    StringConstraints(min_length=1, max_length=4000),
    AfterValidator(_lines),
    Field(description="What there is to say about the job, in up to 4,000 characters."),
]
LabelValue = Annotated[
    str, StringConstraints(max_length=256), AfterValidator(lambda v: _printable(v) if v else v)
]
Labels = Annotated[
    dict[str, LabelValue],
    Field(max_length=MAXIMUM_LABELS, description="Up to 16 pairs of your own, to filter lists by."),
    AfterValidator(_labels),
]
