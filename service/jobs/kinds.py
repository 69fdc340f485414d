"""The kinds of job, and what looks at each before it is queued: a kind is a row here."""

from __future__ import annotations

from collections.abc import Mapping

from service.jobs import attribution, quality, retraining, vectors
from service.jobs.prepared import Prepare

KINDS: Mapping[str, Prepare] = {
    "influences": attribution.prepared,
    "factors": attribution.prepared,
    "ihvp": attribution.prepared,
    "self_influences": attribution.prepared,
    "index": attribution.prepared,
    "gradients": vectors.prepared_gradients,
    "hvp": vectors.prepared_products,
    "retrain": retraining.prepared,
    "quality": quality.prepared,
}
