"""Models and datasets on the device. Those used last stay, within a byte budget; the least recently used go."""

from __future__ import annotations

import gc
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from service.datasets.sources import sources_of
from service.datasets.views import view_of
from service.settings import Settings
from service.storage.objects import Objects
from upweight.schema import DatasetRecord, ModelRecord, Rows
from workers.datasets.columns import Columns
from workers.datasets.disk_cache import BlockCache
from workers.datasets.reader import DatasetReader, load_columns
from workers.datasets.streamed_rows import StreamedRows
from workers.engine import Problem, TensorRows
from workers.engine import Rows as EngineRows
from workers.engine.progress import Progress, silent
from workers.programs.models import load_problem

Kept = TypeVar("Kept")
_MOST_HELD = 256  # things, many of which have no bytes to speak of: readers, and that something was looked at
_WINDOWS = 8  # of the budget for blocks: three windows of rows at a time take less than half of it


class Session:
    """What a warm worker holds between tasks. Used by one task at a time."""

    def __init__(
        self,
        objects: Objects,
        scratch: Path,
        device: torch.device,
        settings: Settings,
        cache: BlockCache | None = None,
    ) -> None:
        self._objects = objects
        self._scratch = scratch
        self._device = device
        self._settings = settings
        self._cache = cache
        self._held: OrderedDict[tuple[str, ...], tuple[Any, int]] = OrderedDict()

    def problem(
        self,
        namespace: str,
        model: ModelRecord,
        dtype: torch.dtype,
        progress: Progress = silent,
    ) -> Problem:
        """The model with its loss and selected parameters, on the device, in a precision."""

        def load() -> tuple[Problem, int]:
            problem = load_problem(
                model,
                self._objects,
                namespace,
                self._scratch,
                self._settings,
                dtype,
                self._device,
                progress,
            )
            return problem, sum(
                each.nbytes for each in problem.module.state_dict().values()
            ) + problem.theta.nbytes

        return self.kept(("model", namespace, model.id, str(dtype)), load)

    def rows(
        self,
        namespace: str,
        dataset: DatasetRecord,
        columns: Columns,
        selection: Rows,
        progress: Progress = silent,
    ) -> EngineRows:
        """Selected rows of a dataset as the engine takes them: of one that fits, views of what the device holds.

        One that would fill more than half of `cache_bytes` is read anew, through the cache on disk, in each pass.
        """
        reader = self._reader(namespace, dataset)
        if reader.rows * reader.row_bytes > self._settings.cache_bytes // 2:
            window = self._settings.memory_bytes // _WINDOWS
            return StreamedRows(reader, columns, selection, self._device, window)
        held = self._columns(namespace, reader, progress)
        inputs, targets = (
            [columns.arranged(name, _selected(held[name], selection)) for name in names]
            for names in (columns.inputs, columns.targets)
        )
        return TensorRows(inputs, targets[0] if len(targets) == 1 else tuple(targets) or None)

    def require_unchanged(self, namespace: str, dataset: DatasetRecord) -> None:
        """Raises Rejected when a file by `uri` is not the one that was registered, whatever is still held of it."""
        self._reader(namespace, dataset).require_unchanged()

    def _reader(self, namespace: str, dataset: DatasetRecord) -> DatasetReader:
        def made() -> tuple[DatasetReader, int]:
            sources = sources_of(dataset, self._objects, namespace, self._settings)
            view = view_of(dataset, self._objects, namespace)
            reader = DatasetReader(dataset, sources, self._cache, view)
            return reader, 0 if view is None else view.nbytes

        return self.kept(("reader", namespace, dataset.id), made)

    def _columns(
        self, namespace: str, reader: DatasetReader, progress: Progress
    ) -> dict[str, Tensor]:
        def load() -> tuple[dict[str, Tensor], int]:
            columns = load_columns(reader, self._device, progress)
            return columns, sum(each.nbytes for each in columns.values())

        return self.kept(("dataset", namespace, reader.record.id), load)

    def forget(self) -> None:
        """Lets everything go: after running out of memory."""
        self._held.clear()
        gc.collect()

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

    def held(self, key: tuple[str, ...]) -> Any:
        """What is held under a key; None where nothing is."""
        return self._held[key][0] if key in self._held else None

    def once(self, key: tuple[str, ...], holds: Callable[[], bool]) -> None:
        """Asks whether something holds until the answer is yes, which is remembered."""
        if key not in self._held and holds():
            self.kept(key, lambda: (True, 0))

    def resize(self, key: tuple[str, ...], size: int) -> None:
        """Tells the bytes of what has grown since it was kept."""
        if key in self._held:
            self._held[key] = (self._held[key][0], size)
            self._held.move_to_end(key)
            self._shrink()

    def _shrink(self) -> None:
        freed, held = 0, sum(each for _, each in self._held.values())
        while len(self._held) > 1 and (
            held - freed > self._settings.cache_bytes or len(self._held) > _MOST_HELD
        ):
            freed += self._held.popitem(last=False)[1][1]
        if freed:
            # Modules and graphs are circles, which Python would let lie until it has made as many other objects.
            gc.collect()


def _selected(column: Tensor, selection: Rows) -> Tensor:
    if len(selection.parts) == 1:
        part = selection.parts[0]
        return column[part.start : part.stop : part.step]
    numbers = [
        torch.arange(part.start, part.stop, part.step, device=column.device)
        for part in selection.parts
    ]
    return column[torch.cat(numbers)]
