"""Preparing a job that trains a model anew."""

from __future__ import annotations

from service.jobs.prepared import Prepared
from service.parts import Parts
from upweight.errors import InvalidRequest
from upweight.schema import RetrainJob


def prepared(parts: Parts, namespace: str, job: RetrainJob) -> Prepared:
    """Raises InvalidRequest."""
    raise InvalidRequest.field("/kind", "this service does not retrain yet", job.kind)
