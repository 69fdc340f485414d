"""httpx2."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from upweight.late import attribute

if TYPE_CHECKING:
    from httpx2 import *  # noqa: F403
else:

    def __getattr__(name: str) -> Any:
        return attribute("httpx2", name, globals())
