"""What a worker holds of an index between questions."""

from __future__ import annotations

from dataclasses import dataclass

from upweight.schema import ColumnMatch, DatasetRecord, IndexJob, JobRecord, ModelRecord, Rows
from workers.engine import Embedding
from workers.engine.curvature.structured.blocks import Spectral
from workers.indexes.search import Searched


@dataclass(frozen=True)
class OpenIndex:
    """An index that a worker has at hand."""

    job: JobRecord
    request: IndexJob  # with λ as what it came to
    model: ModelRecord
    dataset: DatasetRecord
    rows: Rows  # the dataset's row of each of the index's
    form: Spectral
    embedding: Embedding
    searched: Searched

    @property
    def match(self) -> ColumnMatch:
        """How the dataset's columns meet the model's inputs."""
        return next(each for each in self.job.matched if each.dataset == self.dataset.id)
