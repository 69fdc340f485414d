"""An event that is written in one step with the change that it tells of, so that neither is without the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Announcement:
    """What `scripts.REPLACE` writes beside a change; nothing, when it is empty."""

    keys: Sequence[
        str
    ] = ()  # a hash, a sorted set of what is due by time in milliseconds, a set of groups
    arguments: Sequence[str | int] = ()  # field, value, the hash's seconds, member, group
