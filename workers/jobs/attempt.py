"""An attempt at a job, whatever its kind: what runs under the watch of a worker's task."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from service.storage.keys import Document
from service.storage.layout import ResultPaths
from upweight.schema import JobBase
from workers.process.context import Context
from workers.process.watch import Watch

RequestT = TypeVar("RequestT", bound=JobBase)


@dataclass(frozen=True)
class Attempt(ABC, Generic[RequestT]):
    """One attempt at a job by the worker that takes it. A kind of job is a subclass, and a row of `kinds`."""

    context: Context
    namespace: str
    job: Document
    request: RequestT
    watch: Watch

    @abstractmethod
    def run(self) -> dict[str, Any] | None:
        """Does the job and answers the fields of its success in the record: `result`, `cost`, and others.

        None where it goes on in blocks, the last of which ends it. Raises UpweightError, EngineError, and what
        `watch.progress` and `watch.confirm` raise. What it stores lies below `paths`, and its manifest comes last.
        """

    def left_by_failure(self) -> dict[str, Any]:
        """Fields of the record that stay when `run` has failed: how far it came."""
        return {}

    @property
    def paths(self) -> ResultPaths:
        """Where the job's objects lie."""
        return ResultPaths(self.namespace, self.job["id"])
