"""Results of jobs: handles whose arrays are fetched when they are looked at."""

from upweight.results.array import AsyncRemoteArray, RemoteArray
from upweight.results.blocking import (
    FactorsResult,
    InfluenceResult,
    InversionInfo,
    QualityResult,
    RankedResult,
    Result,
    RetrainingResult,
    SelfInfluenceResult,
)
from upweight.results.coroutines import (
    AsyncFactorsResult,
    AsyncInfluenceResult,
    AsyncInversionInfo,
    AsyncQualityResult,
    AsyncResult,
    AsyncRetrainingResult,
    AsyncSelfInfluenceResult,
)
from upweight.results.quality import QualityTable, Tuning

__all__ = [
    "AsyncFactorsResult",
    "AsyncInfluenceResult",
    "AsyncInversionInfo",
    "AsyncQualityResult",
    "AsyncRemoteArray",
    "AsyncResult",
    "AsyncRetrainingResult",
    "AsyncSelfInfluenceResult",
    "FactorsResult",
    "InfluenceResult",
    "InversionInfo",
    "QualityResult",
    "QualityTable",
    "RankedResult",
    "RemoteArray",
    "Result",
    "RetrainingResult",
    "SelfInfluenceResult",
    "Tuning",
]
