"""Results of jobs: handles whose arrays are fetched when they are looked at."""

from upweight.results.array import AsyncRemoteArray, RemoteArray
from upweight.results.blocking import (
    FactorsResult,
    InfluenceResult,
    InversionInfo,
    RankedResult,
    Result,
    RetrainingResult,
    SelfInfluenceResult,
)
from upweight.results.coroutines import (
    AsyncFactorsResult,
    AsyncInfluenceResult,
    AsyncInversionInfo,
    AsyncResult,
    AsyncRetrainingResult,
    AsyncSelfInfluenceResult,
)

__all__ = [
    "AsyncFactorsResult",
    "AsyncInfluenceResult",
    "AsyncInversionInfo",
    "AsyncRemoteArray",
    "AsyncResult",
    "AsyncRetrainingResult",
    "AsyncSelfInfluenceResult",
    "FactorsResult",
    "InfluenceResult",
    "InversionInfo",
    "RankedResult",
    "RemoteArray",
    "Result",
    "RetrainingResult",
    "SelfInfluenceResult",
]
