"""A set-up seen from a client: the service, its parts, the key, the clock."""

from __future__ import annotations

import difflib
import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime

from upweight import __version__
from upweight.cli.shell import Shell
from upweight.errors import Forbidden, NotFound, Unauthorized, UpweightError
from upweight.schema.finding import Finding, fail, ok, warn

SKEW_SECONDS = 30.0  # presigned addresses and webhook signatures bear minutes
SLOW_SECONDS = 1.0
VARIABLES = ("UPWEIGHT_URL", "UPWEIGHT_API_KEY")


def examined(shell: Shell) -> Iterator[Finding]:
    """What is right and wrong, as far as each allows to look at the next."""
    yield from _mistyped()
    client = shell.client
    began = time.monotonic()
    try:
        health = client.health()
    except UpweightError as error:
        yield fail("service", error.detail)
        return
    spent = time.monotonic() - began
    where = f"{client.connection.url} answers in {spent * 1000:.0f} ms, version {health.version}"
    yield warn("service", f"{where}: slow") if spent > SLOW_SECONDS else ok("service", where)
    if health.version.split(".")[:2] != __version__.split(".")[:2]:
        yield warn(
            "versions",
            f"the service is {health.version}, this command {__version__}; upgrade the older one",
        )
    for part in health.components:
        yield (ok if part.ready else fail)(part.name, part.detail)
    yield from _key(shell)


def _mistyped() -> Iterator[Finding]:
    """Variables that look like ours and are not: what they were to set is not set."""
    for name in sorted(os.environ):
        near = difflib.get_close_matches(name, VARIABLES, n=1, cutoff=0.75)
        if near and name not in VARIABLES:
            yield warn("settings", f"{name} is set, and nothing reads it; did you mean {near[0]}?")


def _key(shell: Shell) -> Iterator[Finding]:
    try:
        access = shell.client.access()
    except (Unauthorized, Forbidden) as error:
        yield fail("key", f"{error.detail}; give a valid key: UPWEIGHT_API_KEY or --api-key")
        return
    except NotFound:
        yield warn("key", "the service is too old to say what the key is good for")
        return
    who = f"key {access.key_id}" if access.key_id else "no key is needed"
    may = {
        "read": "may look, and change nothing",
        "write": "may register and compute",
        "admin": "may do all",
    }
    yield ok("key", f"{who}: role {access.role}, namespace {access.namespace}, {may[access.role]}")
    skew = (access.time - datetime.now(UTC)).total_seconds()
    words = f"{skew:+.1f} s from the service's"
    yield (
        warn("clock", f"{words}; set both by NTP")
        if abs(skew) > SKEW_SECONDS
        else ok("clock", words)
    )
