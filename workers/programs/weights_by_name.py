"""Values of a model's selected parameters by name, in a safetensors blob: initial weights, and retrained ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from service.storage.layout import blob_path
from service.storage.objects import Objects
from service.storage.tensors import BadTensors, TensorEntry, read_entry, read_header
from upweight.errors import Rejected
from workers.engine import ParameterSlice

_SHOWN = 5


def refuse_unlike(
    objects: Objects, namespace: str, digest: str, selected: Sequence[Mapping[str, Any]]
) -> None:
    """Initial weights have each selected parameter, in its shape. Raises Rejected, naming the first that differs."""
    entries = _header(objects, namespace, digest, "/initial")
    for each in selected:
        name, shape = each["name"], tuple(each["shape"])
        entry = entries.get(name)
        if entry is None:
            held = ", ".join(list(entries)[:_SHOWN]) + (", …" if len(entries) > _SHOWN else "")
            raise Rejected.field(
                "/initial",
                f"the initial weights have no parameter {name!r}; they have: {held or 'none'}. Give a module of the "
                "same class and sizes, or its state_dict",
                name,
            )
        if entry.shape != shape or entry.dtype.kind != "f":
            raise Rejected.field(
                "/initial",
                f"parameter {name!r} has shape {list(shape)} in the model, and in the initial weights "
                f"{list(entry.shape)} of {entry.dtype}; give a module of the same class and sizes, or its state_dict",
                name,
            )


def theta_of(
    objects: Objects, namespace: str, digest: str, layout: Sequence[ParameterSlice]
) -> Tensor:
    """The values laid end to end, (p,) in float64. Raises Rejected where the blob has gone or holds others."""
    entries = _header(objects, namespace, digest, "/initial")
    path = blob_path(namespace, digest)
    pieces = []
    for each in layout:
        entry = entries.get(each.name)
        if entry is None or entry.shape != each.shape:
            raise Rejected(
                f"the stored weights have no parameter {each.name!r} of shape {each.shape}"
            )
        pieces.append(torch.tensor(read_entry(objects, path, entry)).double().reshape(-1))
    return torch.cat(pieces)


def put_into(module: nn.Module, objects: Objects, namespace: str, digest: str) -> None:
    """Copies the values into the module's parameters of these names. Raises Rejected."""
    path, named = (
        blob_path(namespace, digest),
        dict(module.named_parameters(remove_duplicate=False)),
    )
    for name, entry in _header(objects, namespace, digest, "/weights").items():
        if name not in named or tuple(named[name].shape) != entry.shape:
            raise Rejected(f"the model has no parameter {name!r} of shape {list(entry.shape)}")
        with torch.no_grad():
            named[name].copy_(torch.tensor(read_entry(objects, path, entry)))


def _header(objects: Objects, namespace: str, digest: str, at: str) -> dict[str, TensorEntry]:
    try:
        return read_header(objects, blob_path(namespace, digest))
    except FileNotFoundError:
        raise Rejected.field(at, "the weights' blob has gone; upload it again", digest) from None
    except BadTensors as error:
        raise Rejected.field(at, f"the weights are no safetensors file: {error}", digest) from None
