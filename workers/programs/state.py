"""Safetensors weights into a module: every name accounted for, tied tensors still tied."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from workers.programs.errors import PickleRefused, StateMismatch, WeightsInvalid
from workers.programs.pickles import refuse_bare_pickle

_SHOWN = 10
_FIELD = "/program/weights"
_FLOATING = {  # by their names in safetensors
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}


def load_state(module: nn.Module, weights: Path) -> None:
    """Copies the file's tensors into the module's, by name, shape and dtype; float64 ones make it a float64 module."""
    if torch.float64 in stored_dtypes(weights):
        module.double()
    targets = module.state_dict(keep_vars=True)
    tensors = read_tensors(weights)
    _check_names(_groups(targets), tensors.keys(), targets.keys())
    with torch.no_grad():
        for name, tensor in tensors.items():
            _check_fits(name, tensor, targets[name])
            targets[name].copy_(tensor)
    for name, tensor in tensors.items():
        _check_ties(name, tensor, targets[name])


def stored_dtypes(weights: Path) -> set[torch.dtype]:
    """Of the tensors in the file that are of real numbers."""
    with _opened(weights) as file:
        found = {file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
    return {_FLOATING[each] for each in found if each in _FLOATING}


def check_state(outline: nn.Module, weights: Path) -> None:
    """Compares names and shapes with the file's header, for a module that may lie on the meta device."""
    targets = outline.state_dict(keep_vars=True)
    with _opened(weights) as file:
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    _check_names(_groups(targets), shapes.keys(), targets.keys())
    for name, shape in shapes.items():
        _check_shape(name, shape, tuple(targets[name].shape))


def read_tensors(weights: Path, field: str = _FIELD) -> dict[str, torch.Tensor]:
    """All tensors of a safetensors file, which requests name by `field`. Raises PickleRefused, WeightsInvalid."""
    with _opened(weights, field) as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


@contextmanager
def _opened(weights: Path, field: str = _FIELD) -> Iterator[Any]:
    if not weights.is_file():
        raise WeightsInvalid("there is no such file; upload it again", field=field)
    try:
        refuse_bare_pickle(weights)
        with safe_open(weights, framework="pt") as file:
            yield file
    except PickleRefused as exc:
        raise PickleRefused(
            "the weights are a pickle, which would run code: save them with "
            "safetensors.torch.save_model(model, path)",
            field=field,
        ) from exc
    except (SafetensorError, OSError, ValueError, RuntimeError) as exc:
        raise WeightsInvalid(
            f"not a whole safetensors file ({exc}): save it with "
            "safetensors.torch.save_model(model, path) and upload it again",
            field=field,
        ) from exc


def _groups(targets: dict[str, torch.Tensor]) -> list[set[str]]:
    """Names which stand for one tensor: safetensors keeps one of each group."""
    groups: dict[object, set[str]] = {}
    for name, tensor in targets.items():
        place: object = name
        if tensor.is_meta:
            place = id(tensor)
        elif tensor.numel():
            layout = (tuple(tensor.shape), tensor.stride())
            place = (tensor.data_ptr(), tensor.device, tensor.dtype, layout)
        groups.setdefault(place, set()).add(name)
    return list(groups.values())


def _check_names(groups: list[set[str]], given: Iterable[str], known: Iterable[str]) -> None:
    names = set(given)
    missing = sorted(min(group) for group in groups if not group & names)
    unexpected = sorted(names - set(known))
    if missing or unexpected:
        raise StateMismatch(
            "the weights are not this model's: "
            f"missing {_listed(missing)}; unexpected {_listed(unexpected)}. "
            "Check the factory and its kwargs, or the config, and save with safetensors.torch.save_model"
        )


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return (", ".join(name[:200] for name in names[:_SHOWN]) or "none") + more


def _check_shape(name: str, given: tuple[int, ...], wanted: tuple[int, ...]) -> None:
    if given != wanted:
        raise StateMismatch(
            f"{name} has shape {list(given)}, the model's has {list(wanted)}: "
            "check the kwargs or the config"
        )


def _check_fits(name: str, tensor: torch.Tensor, target: torch.Tensor) -> None:
    _check_shape(name, tuple(tensor.shape), tuple(target.shape))
    if torch.promote_types(tensor.dtype, target.dtype) != target.dtype:
        raise StateMismatch(
            f"{name} is {tensor.dtype}, the model's is {target.dtype}: a conversion would lose "
            "digits, so convert the file, or choose the model's dtype"
        )


def _check_ties(name: str, tensor: torch.Tensor, target: torch.Tensor) -> None:
    """Copied in last, a tied tensor's other name would have overwritten this one."""
    if not torch.equal(tensor.to(target.dtype), target.detach()) and not tensor.isnan().any():
        raise StateMismatch(f"{name} is tied to another tensor, but the file holds two values")
