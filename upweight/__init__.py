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
    from upweight.client import AsyncClient, Client
    from upweight.errors import UpweightError
    from upweight.export import ExportFailed, export_program
    from upweight.extras import MissingPackage
    from upweight.http.flow import UnexpectedAnswer
    from upweight.http.polling import JobCancelled, UntrustedResult, WaitTimedOut
    from upweight.http.transport import ConnectionFailed
    from upweight.results import (
        AsyncFactorsResult,
        AsyncInfluenceResult,
        AsyncRemoteArray,
        AsyncSelfInfluenceResult,
        FactorsResult,
        InfluenceResult,
        RemoteArray,
        SelfInfluenceResult,
    )
    from upweight.webhooks import WebhookInvalid, verify_webhook

_HOME = {
    "AsyncClient": "upweight.client",
    "AsyncFactorsResult": "upweight.results",
    "AsyncInfluenceResult": "upweight.results",
    "AsyncRemoteArray": "upweight.results",
    "AsyncSelfInfluenceResult": "upweight.results",
    "Client": "upweight.client",
    "ConnectionFailed": "upweight.http.transport",
    "ExportFailed": "upweight.export",
    "FactorsResult": "upweight.results",
    "InfluenceResult": "upweight.results",
    "JobCancelled": "upweight.http.polling",
    "MissingPackage": "upweight.extras",
    "RemoteArray": "upweight.results",
    "SelfInfluenceResult": "upweight.results",
    "UnexpectedAnswer": "upweight.http.flow",
    "UntrustedResult": "upweight.http.polling",
    "UpweightError": "upweight.errors",
    "WaitTimedOut": "upweight.http.polling",
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
