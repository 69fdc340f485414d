"""Becoming another program of Upweight, which this package starts by name and never imports."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import NoReturn

NEEDS = {
    "service": ("fastapi", "upweight[service]"),
    "workers": ("torch", "upweight[workers]"),
}


def become(
    module: str, arguments: Sequence[str], environment: Mapping[str, str] | None = None
) -> NoReturn:
    """Replace this process by `python -m module`, so that signals reach it and its exit code is ours."""
    require(module.split(".")[0])
    os.execve(
        sys.executable,
        [sys.executable, "-m", module, *arguments],
        {**os.environ, **(environment or {})},
    )


def require(package: str) -> None:
    """End with one line when what the package needs is not installed."""
    needed, extra = NEEDS[package]
    if find_spec(package) is None or find_spec(needed) is None:
        sys.exit(
            f"upweight: this needs more than the SDK: install it with `pip install '{extra}'`."
        )
