"""Packages that are loaded when something of them is first used: `import upweight.late.numpy as np`.

Type checkers see the package itself. `from upweight import Client` is done before any of them is loaded.
"""

from __future__ import annotations

import importlib
from typing import Any


def attribute(package: str, name: str, of: dict[str, Any]) -> Any:
    """The package's attribute of this name, kept in `of`, the namespace that stands for the package."""
    if name.startswith("__"):
        raise AttributeError(name)
    of[name] = getattr(importlib.import_module(package), name)
    return of[name]
