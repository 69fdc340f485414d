"""Results of jobs: handles whose arrays are fetched when they are looked at."""

from upweight.results.array import AsyncRemoteArray, InversionInfo, RemoteArray
from upweight.results.blocking import (
    FactorsResult,
    GradientsResult,
    IndexResult,
    InfluenceResult,
    ProductsResult,
    QualityResult,
    RankedResult,
    Result,
    RetrainingResult,
    SelfInfluenceResult,
)
from upweight.results.coroutines import (
    AsyncFactorsResult,
    AsyncGradientsResult,
    AsyncIndexResult,
    AsyncInfluenceResult,
    AsyncInversionInfo,
    AsyncProductsResult,
    AsyncQualityResult,
    AsyncResult,
    AsyncRetrainingResult,
    AsyncSelfInfluenceResult,
)
from upweight.results.quality import QualityTable, Tuning

__all__ = [
    "AsyncFactorsResult",
    "AsyncGradientsResult",
    "AsyncIndexResult",
    "AsyncInfluenceResult",
    "AsyncInversionInfo",
    "AsyncProductsResult",
    "AsyncQualityResult",
    "AsyncRemoteArray",
    "AsyncResult",
    "AsyncRetrainingResult",
    "AsyncSelfInfluenceResult",
    "FactorsResult",
    "GradientsResult",
    "IndexResult",
    "InfluenceResult",
    "InversionInfo",
    "ProductsResult",
    "QualityResult",
    "QualityTable",
    "RankedResult",
    "RemoteArray",
    "Result",
    "RetrainingResult",
    "SelfInfluenceResult",
    "Tuning",
]
