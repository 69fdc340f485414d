"""In which order a dataset's columns, and the features in them, go to the model, as the job's record says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from upweight.schema import ColumnMatch, DatasetRecord


@dataclass(frozen=True)
class Columns:
    """The columns by name. `features`: places along the last axis, of columns that are stored in another order."""

    inputs: tuple[str, ...]
    targets: tuple[str, ...]
    features: Mapping[str, Tensor]

    @classmethod
    def of(cls, dataset: DatasetRecord, match: ColumnMatch) -> Columns:
        """As a job's record has them."""
        features = {}
        for column, order in match.features.items():
            places = {name: at for at, name in enumerate(dataset.features_of(column))}
            features[column] = torch.tensor([places[name] for name in order])
        return cls(tuple(match.inputs), tuple(match.targets), features)

    def arranged(self, name: str, rows: Tensor) -> Tensor:
        """Rows of a column (b, …, features), copied where their features lie in another order."""
        if name not in self.features:
            return rows
        return rows.index_select(-1, self.features[name].to(rows.device))
