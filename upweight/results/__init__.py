"""Results of jobs: handles whose arrays are fetched when they are looked at."""

from upweight.results.array import AsyncRemoteArray, RemoteArray
from upweight.results.blocking import (
    FactorsResult,
    InfluenceResult,
    InversionInfo,
    RankedResult,
    Result,
    SelfInfluenceResult,
)
from upweight.results.coroutines import (
    AsyncFactorsResult,
    AsyncInfluenceResult,
    AsyncInversionInfo,
    AsyncResult,
    AsyncSelfInfluenceResult,
)

__all__ = [
    "AsyncFactorsResult",
    "AsyncInfluenceResult",
    "AsyncInversionInfo",
    "AsyncRemoteArray",
    "AsyncResult",
    "AsyncSelfInfluenceResult",
    "FactorsResult",
    "InfluenceResult",
    "InversionInfo",
    "RankedResult",
    "RemoteArray",
    "Result",
    "SelfInfluenceResult",
]
