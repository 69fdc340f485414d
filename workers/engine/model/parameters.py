"""Which parameters of a model are differentiated, and where each lies in θ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from workers.engine.errors import BadParameter, ComplexParameter, NoSuchParameter, NothingTrains


@dataclass(frozen=True)
class ParameterSlice:
    """Where one parameter lies in θ: θ[offset : offset + size], row-major, of this shape."""

    name: str
    shape: tuple[int, ...]
    offset: int

    @property
    def size(self) -> int:
        """Number of entries."""
        return int(torch.Size(self.shape).numel())

    @property
    def module(self) -> str:
        """Of the module that it is of: what is before its last dot; without one, its own name."""
        return self.name.rpartition(".")[0] or self.name


def all_names(module: nn.Module) -> dict[str, list[str]]:
    """Each parameter's first name, with all the names it has: several where it is tied."""
    first: dict[nn.Parameter, str] = {}
    names: dict[str, list[str]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        names.setdefault(first.setdefault(parameter, name), []).append(name)
    return names


def trained(module: nn.Module, names: dict[str, list[str]]) -> list[str]:
    """First names of the parameters that require gradients, in the model's order."""
    flags = {
        name: each.requires_grad for name, each in module.named_parameters(remove_duplicate=False)
    }
    trained = [first for first, every in names.items() if any(flags[name] for name in every)]
    if not trained:
        raise NothingTrains(list(names))
    return trained


def select(names: dict[str, list[str]], globs: Sequence[str]) -> list[str]:
    """First names of the parameters any of whose names match, in the model's order."""
    chosen: set[str] = set()
    for glob in globs:
        matching = {
            first
            for first, every in names.items()
            if any(fnmatchcase(each, glob) for each in every)
        }
        if not matching:
            raise NoSuchParameter(glob, list(names))
        chosen |= matching
    if not chosen:
        raise BadParameter("parameters", tuple(globs), "at least one glob, such as *")
    return [name for name in names if name in chosen]


def refuse_other_numbers(module: nn.Module, selected: Sequence[str]) -> None:
    given = dict(module.named_parameters(remove_duplicate=False))
    for name in selected:
        if given[name].is_complex():
            raise ComplexParameter(name, given[name].dtype)
        if not given[name].is_floating_point():
            dtype = str(given[name].dtype).removeprefix("torch.")
            raise BadParameter(
                "parameters",
                name,
                f"it is of {dtype}, which has no derivative; give globs that leave it out",
            )


def layout_of(named: dict[str, Tensor]) -> tuple[ParameterSlice, ...]:
    slices, offset = [], 0
    for name, value in named.items():
        slices.append(ParameterSlice(name, tuple(value.shape), offset))
        offset += value.numel()
    return tuple(slices)
