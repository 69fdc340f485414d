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
    from upweight.errors import (
        ComputationFailed,
        Conflict,
        DigestMismatch,
        Forbidden,
        HeadTooLarge,
        IdempotencyConflict,
        InternalError,
        InUse,
        InvalidRequest,
        LengthRequired,
        MethodNotAllowed,
        NotAcceptable,
        NotFound,
        NotReady,
        NotStored,
        QueueFull,
        QuotaExceeded,
        RangeNotSatisfiable,
        RateLimited,
        Rejected,
        RequestInProgress,
        ResultExpired,
        ResultNotReady,
        ResultTooLarge,
        TimedOut,
        TooLarge,
        Unauthorized,
        Unavailable,
        UnsupportedMediaType,
        UpweightError,
        WorkerLost,
    )
    from upweight.export import ExportFailed, export_program
    from upweight.extras import MissingPackage
    from upweight.http.flow import UnexpectedAnswer
    from upweight.http.polling import JobCancelled, UntrustedResult, WaitTimedOut
    from upweight.http.transport import ConnectionFailed
    from upweight.results import (
        AsyncFactorsResult,
        AsyncGradientsResult,
        AsyncInfluenceResult,
        AsyncProductsResult,
        AsyncRemoteArray,
        AsyncSelfInfluenceResult,
        FactorsResult,
        GradientsResult,
        InfluenceResult,
        ProductsResult,
        RemoteArray,
        SelfInfluenceResult,
    )
    from upweight.webhooks import WebhookInvalid, verify_webhook

_HOME = {
    "AsyncClient": "upweight.client",
    "AsyncFactorsResult": "upweight.results",
    "AsyncGradientsResult": "upweight.results",
    "AsyncInfluenceResult": "upweight.results",
    "AsyncProductsResult": "upweight.results",
    "AsyncRemoteArray": "upweight.results",
    "AsyncSelfInfluenceResult": "upweight.results",
    "Client": "upweight.client",
    "ComputationFailed": "upweight.errors",
    "Conflict": "upweight.errors",
    "ConnectionFailed": "upweight.http.transport",
    "DigestMismatch": "upweight.errors",
    "ExportFailed": "upweight.export",
    "FactorsResult": "upweight.results",
    "Forbidden": "upweight.errors",
    "GradientsResult": "upweight.results",
    "HeadTooLarge": "upweight.errors",
    "IdempotencyConflict": "upweight.errors",
    "InUse": "upweight.errors",
    "InfluenceResult": "upweight.results",
    "InternalError": "upweight.errors",
    "InvalidRequest": "upweight.errors",
    "JobCancelled": "upweight.http.polling",
    "LengthRequired": "upweight.errors",
    "MethodNotAllowed": "upweight.errors",
    "MissingPackage": "upweight.extras",
    "NotAcceptable": "upweight.errors",
    "NotFound": "upweight.errors",
    "NotReady": "upweight.errors",
    "NotStored": "upweight.errors",
    "ProductsResult": "upweight.results",
    "QueueFull": "upweight.errors",
    "QuotaExceeded": "upweight.errors",
    "RangeNotSatisfiable": "upweight.errors",
    "RateLimited": "upweight.errors",
    "Rejected": "upweight.errors",
    "RemoteArray": "upweight.results",
    "RequestInProgress": "upweight.errors",
    "ResultExpired": "upweight.errors",
    "ResultNotReady": "upweight.errors",
    "ResultTooLarge": "upweight.errors",
    "SelfInfluenceResult": "upweight.results",
    "TimedOut": "upweight.errors",
    "TooLarge": "upweight.errors",
    "Unauthorized": "upweight.errors",
    "Unavailable": "upweight.errors",
    "UnexpectedAnswer": "upweight.http.flow",
    "UnsupportedMediaType": "upweight.errors",
    "UntrustedResult": "upweight.http.polling",
    "UpweightError": "upweight.errors",
    "WaitTimedOut": "upweight.http.polling",
    "WebhookInvalid": "upweight.webhooks",
    "WorkerLost": "upweight.errors",
    "export_program": "upweight.export",
    "verify_webhook": "upweight.webhooks",
}

__all__ = [
    "AsyncClient",
    "AsyncFactorsResult",
    "AsyncGradientsResult",
    "AsyncInfluenceResult",
    "AsyncProductsResult",
    "AsyncRemoteArray",
    "AsyncSelfInfluenceResult",
    "Client",
    "ComputationFailed",
    "Conflict",
    "ConnectionFailed",
    "DigestMismatch",
    "ExportFailed",
    "FactorsResult",
    "Forbidden",
    "GradientsResult",
    "HeadTooLarge",
    "IdempotencyConflict",
    "InUse",
    "InfluenceResult",
    "InternalError",
    "InvalidRequest",
    "JobCancelled",
    "LengthRequired",
    "MethodNotAllowed",
    "MissingPackage",
    "NotAcceptable",
    "NotFound",
    "NotReady",
    "NotStored",
    "ProductsResult",
    "QueueFull",
    "QuotaExceeded",
    "RangeNotSatisfiable",
    "RateLimited",
    "Rejected",
    "RemoteArray",
    "RequestInProgress",
    "ResultExpired",
    "ResultNotReady",
    "ResultTooLarge",
    "SelfInfluenceResult",
    "TimedOut",
    "TooLarge",
    "Unauthorized",
    "Unavailable",
    "UnexpectedAnswer",
    "UnsupportedMediaType",
    "UntrustedResult",
    "UpweightError",
    "WaitTimedOut",
    "WebhookInvalid",
    "WorkerLost",
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
