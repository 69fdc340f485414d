"""Packages that the SDK works without: asked for when they are needed, named when they are missing."""

from __future__ import annotations

import importlib
from typing import Any

from upweight.errors import UpweightError

# By package, the extra that brings it.
EXTRAS = {
    "argilla": "argilla",
    "datasets": "datasets",
    "matplotlib": "plot",
    "mlflow": "mlflow",
    "pandas": "pandas",
    "pyarrow": "arrow",
    "wandb": "wandb",
}


class MissingPackage(UpweightError, ImportError):
    """Something needs a package that is not installed; the detail says how to install it."""

    type, title, status = "missing-package", "A package is not installed", 0


def needed(module: str, purpose: str) -> Any:
    """The module. Raises MissingPackage with what it is needed for and the extra that brings it."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as missing:
        package = module.split(".")[0]
        if (missing.name or "").split(".")[0] != package:
            raise
        what = f"'upweight[{EXTRAS[package]}]'" if package in EXTRAS else package
        raise MissingPackage(f"{purpose} needs {package}: pip install {what}") from missing
