"""Upweight: influence functions as a service.

    from upweight import Client

Names are loaded when they are first used, so that `import upweight` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from upweight import errors, schema
    from upweight.array import AsyncRemoteArray, RemoteArray
    from upweight.async_results import (
        AsyncFactorsResult,
        AsyncInfluenceResult,
        AsyncSelfInfluenceResult,
    )
    from upweight.client import AsyncClient, Client
    from upweight.errors import UpweightError
    from upweight.exchange import UnexpectedAnswer
    from upweight.export import ExportFailed, export_program
    from upweight.extras import MissingPackage
    from upweight.results import FactorsResult, InfluenceResult, SelfInfluenceResult
    from upweight.tracking import JobCancelled, UntrustedResult
    from upweight.transport import ConnectionFailed
    from upweight.waiting import WaitTimedOut
    from upweight.webhooks import WebhookInvalid, verify_webhook

_HOME = {
    "AsyncClient": "upweight.client",
    "AsyncFactorsResult": "upweight.async_results",
    "AsyncInfluenceResult": "upweight.async_results",
    "AsyncRemoteArray": "upweight.array",
    "AsyncSelfInfluenceResult": "upweight.async_results",
    "Client": "upweight.client",
    "ConnectionFailed": "upweight.transport",
    "ExportFailed": "upweight.export",
    "FactorsResult": "upweight.results",
    "InfluenceResult": "upweight.results",
    "JobCancelled": "upweight.tracking",
    "MissingPackage": "upweight.extras",
    "RemoteArray": "upweight.array",
    "SelfInfluenceResult": "upweight.results",
    "UnexpectedAnswer": "upweight.exchange",
    "UntrustedResult": "upweight.tracking",
    "UpweightError": "upweight.errors",
    "WaitTimedOut": "upweight.waiting",
    "WebhookInvalid": "upweight.webhooks",
    "export_program": "upweight.export",
    "verify_webhook": "upweight.webhooks",
}

__all__ = [
    "AsyncClient",
    "AsyncFactorsResult",
    "AsyncInfluenceResult",
    "AsyncRemoteArray",
    "AsyncSelfInfluenceResult",
    "Client",
    "ConnectionFailed",
    "ExportFailed",
    "FactorsResult",
    "InfluenceResult",
    "JobCancelled",
    "MissingPackage",
    "RemoteArray",
    "SelfInfluenceResult",
    "UnexpectedAnswer",
    "UntrustedResult",
    "UpweightError",
    "WaitTimedOut",
    "WebhookInvalid",
    "__version__",
    "errors",
    "export_program",
    "schema",
    "verify_webhook",
]


def __getattr__(name: str) -> Any:
    if name in ("errors", "schema"):
        return importlib.import_module(f"upweight.{name}")
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'upweight' has no attribute {name!r}")
    return getattr(importlib.import_module(home), name)


def __dir__() -> list[str]:
    return __all__
