"""Results of jobs: handles whose arrays are fetched when they are looked at."""

from upweight.results.array import AsyncRemoteArray, RemoteArray
from upweight.results.blocking import (
    FactorsResult,
    IndexResult,
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
    AsyncIndexResult,
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
    "AsyncIndexResult",
    "AsyncInfluenceResult",
    "AsyncInversionInfo",
    "AsyncQualityResult",
    "AsyncRemoteArray",
    "AsyncResult",
    "AsyncRetrainingResult",
    "AsyncSelfInfluenceResult",
    "FactorsResult",
    "IndexResult",
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
