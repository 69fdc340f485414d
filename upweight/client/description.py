"""What callers say of a dataset, as the contract's request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from upweight.client.request import validated
from upweight.schema import DatasetRequest


@dataclass(frozen=True)
class Description:
    """What a dataset is, apart from its bytes; and how long its check is waited for."""

    name: str
    inputs: Sequence[str] | str | None
    targets: Sequence[str] | str | None
    preview: Any
    class_names: Sequence[str]
    labels: Mapping[str, str] | None
    wait: bool
    timeout: float | None
    hold: float
    features: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def filled(
        self, preview: Any, class_names: Sequence[str], features: Mapping[str, tuple[str, ...]]
    ) -> Description:
        """With what the data says of itself, where the caller said nothing."""
        return replace(
            self,
            preview=self.preview or preview,
            class_names=self.class_names or class_names,
            features=features,
        )

    def request(self, **source: Any) -> DatasetRequest:
        """The request, checked."""
        fields = {
            "name": self.name,
            "inputs": self.inputs,
            "targets": self.targets,
            "preview": self.preview,
            "class_names": tuple(self.class_names),
            "features": dict(self.features),
            "labels": dict(self.labels or {}),
            **source,
        }
        for columns in ("inputs", "targets"):
            if fields[columns] is None:
                del fields[columns]
            elif isinstance(fields[columns], str):
                fields[columns] = (fields[columns],)
        return validated(DatasetRequest, "/v1/datasets", fields)
