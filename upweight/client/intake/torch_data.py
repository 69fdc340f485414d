"""torch's Dataset and DataLoader. torch is not imported here: what is one of its objects has imported it."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import upweight.late.numpy as np
from upweight.client.intake.classes import Classes
from upweight.client.intake.rows import batches_of_rows, items, named
from upweight.client.intake.stream import Incoming, columns_of, streamed, whole
from upweight.errors import InvalidRequest
from upweight.files.safetensors_file import tensor_of


def is_loader(data: Any) -> bool:
    """Whether it is a DataLoader."""
    return isinstance(data, _class("DataLoader"))


def is_dataset(data: Any) -> bool:
    """Whether it is a Dataset, of either kind."""
    return isinstance(data, _class("Dataset"))


def from_loader(loader: Any, names: Sequence[str], classes: Classes) -> Incoming:
    """The rows in the order in which the loader gives them, which must be the same every time."""
    _refuse_shuffling(loader)
    _refuse_drop(loader)
    _refuse_randomness(loader.dataset, names)
    return streamed(_batches(loader, names), classes)


def from_dataset(dataset: Any, names: Sequence[str], classes: Classes) -> Incoming:
    """The rows in the dataset's own order."""
    if isinstance(dataset, _class("TensorDataset")):
        return whole(columns_of(named(tuple(dataset.tensors), names)))
    _refuse_randomness(dataset, names)
    return streamed(batches_of_rows(items(dataset), names), classes)


def _batches(loader: Any, names: Sequence[str]) -> Iterator[Mapping[str, Any]]:
    unbatched = loader.batch_size is None and loader.batch_sampler is None
    if unbatched:
        yield from batches_of_rows(loader, names)
    else:
        for batch in loader:
            yield named(batch, names)


def _class(name: str) -> Any:
    module = sys.modules.get("torch.utils.data")
    return getattr(module, name, ()) if module else ()


def _refuse_shuffling(loader: Any) -> None:
    sampler = getattr(loader.batch_sampler, "sampler", loader.sampler)
    kinds = ("RandomSampler", "SubsetRandomSampler", "WeightedRandomSampler", "DistributedSampler")
    shuffles = isinstance(sampler, tuple(filter(None, map(_class, kinds))))
    if not shuffles and type(sampler).__module__.startswith("torch."):
        return
    if shuffles or list(sampler) != list(sampler):
        raise InvalidRequest(
            f"the DataLoader shuffles ({type(sampler).__name__}): influences name training rows by number, and its "
            "numbers mean other rows each time; give DataLoader(dataset, shuffle=False), or the dataset itself"
        )


def _refuse_drop(loader: Any) -> None:
    if not loader.drop_last or not hasattr(loader.dataset, "__len__") or not loader.batch_size:
        return
    left_out = len(loader.dataset) % loader.batch_size
    if left_out:
        raise InvalidRequest(
            f"the DataLoader leaves out the last {left_out} rows (drop_last=True); give drop_last=False"
        )


def _refuse_randomness(dataset: Any, names: Sequence[str]) -> None:
    """A row that differs from one look to the next has no gradient of its own."""
    if not hasattr(dataset, "__getitem__") or not hasattr(dataset, "__len__") or not len(dataset):
        return
    first, again = (named(dataset[0], names) for _ in range(2))
    for name, value in first.items():
        one, other = (tensor_of(name, entry).array for entry in (value, again[name]))
        if not np.array_equal(one, other, equal_nan=one.dtype.kind == "f"):
            raise InvalidRequest(
                f"the dataset's row 0 differs from one look to the next (column {name!r}): it has random "
                "transforms; register it without augmentation"
            )
