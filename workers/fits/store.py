"""Fits in the object storage, where all workers at one job find the same."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from service.storage.objects import Objects
from service.storage.row_blocks import block_path
from service.storage.tensors import TensorEntry, read_entry, read_header, tensor_bytes

Array = np.ndarray[Any, Any]
Tensors = dict[str, Tensor]

# What a fit is made of, beside it in its folder: first sums, eigenvectors made of these, and sums in them.
SUMS, ROTATION, SQUARES = "sums", "rotation", "squares"


@dataclass(frozen=True)
class StoredFits:
    """The fits of one folder (a `FitStore` of `workers.fits.fits`), and the partial sums that one is made of."""

    objects: Objects
    folder: str
    device: torch.device

    def find(self, name: str) -> Tensors | None:
        """A fit's tensors on the device; None where there is none."""
        return find_tensors(self.objects, f"{self.folder}/{name}.safetensors", self.device)

    def put(self, name: str, tensors: Mapping[str, Tensor]) -> bool:
        """Stores a fit unless there is one; False if that is another."""
        arrays = {key: as_array(value) for key, value in tensors.items()}
        return self.objects.put_new(f"{self.folder}/{name}.safetensors", tensor_bytes(arrays))

    def partial(self, what: str, count: int) -> Iterator[Tensors]:
        """The parts of a curvature's sums, `SUMS` or `SQUARES`, in their order."""
        for number in range(count):
            path = block_path(f"{self.folder}/{what}", number)
            yield stored_tensors(self.objects, path, self.device)


def stored_tensors(objects: Objects, path: str, device: torch.device) -> Tensors:
    """All of one object, on the device. Raises FileNotFoundError."""
    return _read(objects, path, read_header(objects, path), device)


def find_tensors(objects: Objects, path: str, device: torch.device) -> Tensors | None:
    """The same; None where there is no such object. One that goes while it is read is an error."""
    try:
        header = read_header(objects, path)
    except FileNotFoundError:
        return None
    return _read(objects, path, header, device)


def _read(
    objects: Objects, path: str, header: Mapping[str, TensorEntry], device: torch.device
) -> Tensors:
    return {
        name: as_tensor(read_entry(objects, path, entry)).to(device)
        for name, entry in header.items()
    }


def as_array(tensor: Tensor | Array) -> Array:
    """The same numbers in the host's memory."""
    if isinstance(tensor, Tensor):
        return np.asarray(tensor.detach().cpu().numpy())
    return tensor


def as_tensor(array: Array) -> Tensor:
    """The same numbers in memory of torch's own, which is aligned: products round otherwise elsewhere."""
    return torch.tensor(array)
