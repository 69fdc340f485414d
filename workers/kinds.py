"""The kinds of job, and what does an attempt at each: a kind is a row here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from workers.jobs.attempt import Attempt
from workers.jobs.attribution import AttributionAttempt
from workers.jobs.vectors import GradientsAttempt, ProductsAttempt
from workers.quality.job import QualityAttempt
from workers.retraining.job import RetrainAttempt

KINDS: Mapping[str, type[Attempt[Any]]] = {
    "influences": AttributionAttempt,
    "factors": AttributionAttempt,
    "ihvp": AttributionAttempt,
    "self_influences": AttributionAttempt,
    "index": AttributionAttempt,
    "gradients": GradientsAttempt,
    "hvp": ProductsAttempt,
    "retrain": RetrainAttempt,
    "quality": QualityAttempt,
}
