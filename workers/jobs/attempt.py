"""An attempt at a job, whatever its kind: what runs under the watch of a worker's task."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from service.storage.keys import Document
from service.storage.layout import ResultPaths
from upweight.schema import JobBase
from workers.jobs.blocks import Cost
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

    def blocks(self) -> Blocks:
        """What does its blocks, where `run` has put some into the queue."""
        raise NotImplementedError(f"{type(self).__name__} is not done in blocks")

    def left_by_failure(self) -> dict[str, Any]:
        """Fields of the record that stay when `run` has failed: how far it came."""
        return {}

    @property
    def paths(self) -> ResultPaths:
        """Where the job's objects lie."""
        return ResultPaths(self.namespace, self.job["id"])


class Blocks(ABC):
    """What does the blocks of one attempt at a job, kept by a worker from block to block.

    The record's plan has the stages, each with its number of blocks; the last one is `finish`.
    """

    @abstractmethod
    def there(self, stage: str, count: int) -> Iterable[int]:
        """The blocks of a stage that an earlier attempt or job has stored."""

    @abstractmethod
    def is_there(self, stage: str, number: int, watch: Watch) -> bool:
        """Whether what a block makes is stored."""

    @abstractmethod
    def execute(self, stage: str, number: int, watch: Watch) -> tuple[str, Cost]:
        """Does a block and stores what it makes: the digest of its object, or "", and what it cost."""

    @abstractmethod
    def finish(self, watch: Watch) -> None:
        """Does the last block, and ends the job in its record."""
