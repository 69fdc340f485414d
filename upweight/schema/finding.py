"""One thing that was looked at in a set-up: how it is, and the way out where it is wrong."""

from __future__ import annotations

from typing import Literal

from upweight.schema.base import Answer


class Finding(Answer):
    """`ok`, `warn` (it works, but not as it should), or `fail`."""

    name: str
    state: Literal["ok", "warn", "fail"]
    detail: str


def ok(name: str, detail: str) -> Finding:
    """As it should be."""
    return Finding(name=name, state="ok", detail=detail)


def warn(name: str, detail: str) -> Finding:
    """It works, but not as it should."""
    return Finding(name=name, state="warn", detail=detail)


def fail(name: str, detail: str) -> Finding:
    """It does not work."""
    return Finding(name=name, state="fail", detail=detail)
