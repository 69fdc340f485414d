"""Models and datasets on the device. Those used last stay, within a byte budget; the least recently used go."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from service.settings import Settings
from service.storage.objects import Objects
from upweight.schema import DatasetRecord, ModelRecord, Rows
from workers.datasets.load import load_columns
from workers.engine import Problem, TensorRows
from workers.models import load_problem

Kept = TypeVar("Kept")


class Session:
    """What a warm worker holds between tasks. Used by one task at a time."""

    def __init__(
        self, objects: Objects, scratch: Path, device: torch.device, settings: Settings
    ) -> None:
        self._objects = objects
        self._scratch = scratch
        self._device = device
        self._settings = settings
        self._held: OrderedDict[tuple[str, ...], tuple[Any, int]] = OrderedDict()

    def problem(self, namespace: str, model: ModelRecord, dtype: torch.dtype) -> Problem:
        """The model with its loss and selected parameters, on the device, in a precision."""

        def load() -> tuple[Problem, int]:
            problem = load_problem(
                model, self._objects, namespace, self._scratch, self._settings, dtype, self._device
            )
            return problem, sum(
                each.nbytes for each in problem.module.state_dict().values()
            ) + problem.theta.nbytes

        return self.kept(("model", namespace, model.id, str(dtype)), load)

    def columns(self, namespace: str, dataset: DatasetRecord) -> dict[str, Tensor]:
        """All columns of a dataset on the device."""

        def load() -> tuple[dict[str, Tensor], int]:
            columns = load_columns(dataset, self._objects, namespace, self._scratch, self._device)
            return columns, sum(each.nbytes for each in columns.values())

        return self.kept(("dataset", namespace, dataset.id), load)

    def rows(self, namespace: str, dataset: DatasetRecord, selection: Rows) -> TensorRows:
        """Selected rows of a dataset as the engine takes them; a plain range is a view, not a copy."""
        columns = self.columns(namespace, dataset)
        inputs = [_selected(columns[name], selection) for name in dataset.inputs]
        targets = [_selected(columns[name], selection) for name in dataset.targets]
        return TensorRows(inputs, targets[0] if len(targets) == 1 else tuple(targets) or None)

    def forget(self) -> None:
        """Lets everything go: after running out of memory."""
        self._held.clear()

    def kept(self, key: tuple[str, ...], load: Callable[[], tuple[Kept, int]]) -> Kept:
        """What is held under a key, or what `load` makes now: a value and its size in bytes."""
        if key in self._held:
            self._held.move_to_end(key)
            found: Kept = self._held[key][0]
            return found
        value, size = load()
        self._held[key] = (value, size)
        self._shrink()
        return value

    def resize(self, key: tuple[str, ...], size: int) -> None:
        """Tells the bytes of what has grown since it was kept."""
        if key in self._held:
            self._held[key] = (self._held[key][0], size)
            self._held.move_to_end(key)
            self._shrink()

    def _shrink(self) -> None:
        while (
            len(self._held) > 1
            and sum(each for _, each in self._held.values()) > self._settings.cache_bytes
        ):
            self._held.popitem(last=False)


def _selected(column: Tensor, selection: Rows) -> Tensor:
    if len(selection.parts) == 1:
        part = selection.parts[0]
        return column[part.start : part.stop : part.step]
    numbers = [
        torch.arange(part.start, part.stop, part.step, device=column.device)
        for part in selection.parts
    ]
    return column[torch.cat(numbers)]
