"""What a structured curvature takes in memory at least, by the shapes of the parameters: refused before it starts.

A record does not say how a parameter is used. What is counted is what its shape alone makes sure of; the worker, who
knows the layers, counts again before it passes over any row.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from service.settings import Settings
from upweight.errors import InvalidRequest
from upweight.schema import CurvatureJob, ModelRecord, ParameterSpec
from upweight.schema.curvature import LARGE_BLOCK, LARGEST_SIDE, STRUCTURES

_SUM_BYTES = 8  # sums over rows are in float64
_MATRIX = 2


def refuse_large_structure(settings: Settings, job: CurvatureJob, model: ModelRecord) -> None:
    """Raises InvalidRequest, in bytes, where the parts that are kept are more than a worker may use for them."""
    curvature = job.curvature
    if not curvature.closed_form or not model.selected:
        return
    itemsize = 8 if job.precision == "float64" else 4
    needed, largest, layer = least_at_once(model.selected, curvature.structure, itemsize)
    most = settings.memory_bytes
    if needed <= most:
        return
    diagonal = sum(least_bytes(model.selected, "diagonal", itemsize).values())
    ways = "register the model with fewer 'parameters' ('head.*'), or ask the operator for more UPWEIGHT_MEMORY_BYTES"
    if diagonal <= most:
        ways = f"choose structure 'diagonal' ({diagonal:,} bytes), {ways}"
    raise InvalidRequest.field(
        "/curvature/structure",
        f"{curvature.structure!r} of model {model.name!r} takes {needed:,} bytes at least, {largest:,} of them "
        f"for {layer!r}, and a worker may use {most:,}; {ways}",
        curvature.structure,
    )


def least_at_once(
    selected: Sequence[ParameterSpec], structure: str, itemsize: int
) -> tuple[int, int, str]:
    """In all, and of the module that takes most: eigenvectors of all, and of the sums they come from those of one."""
    kept = least_bytes(selected, structure, itemsize, of_sums=0)
    both = least_bytes(selected, structure, itemsize)
    largest = max(both, key=both.__getitem__)
    return sum(kept.values()) - kept[largest] + both[largest], both[largest], largest


def least_bytes(
    selected: Sequence[ParameterSpec], structure: str, itemsize: int, *, of_sums: int = _SUM_BYTES
) -> dict[str, int]:
    """Of each module: its sums over the rows, and the eigenvectors and eigenvalues made of them.

    `of_sums`: bytes of a number of the sums; 0 leaves them out.
    """
    modules, number = _modules(selected), of_sums + itemsize
    facts = STRUCTURES[structure]  # type: ignore[index]
    if facts.exact_blocks:
        return {name: _exact_or_diagonal(members, number) for name, members in modules.items()}
    if facts.factors:
        return {name: _factors(members, number) for name, members in modules.items()}
    return {name: _SUM_BYTES * _size(members) for name, members in modules.items()}


def likely_bytes(
    selected: Sequence[ParameterSpec], structure: str, itemsize: int
) -> tuple[int, int]:
    """What a fit keeps, and that with the sums of the largest module, which are there until its eigenvectors are.

    As `least_bytes`, but a matrix without a bias of outputs is taken for that of a layer, its outputs first: as the
    worker counts where no layer has groups.
    """
    if not STRUCTURES[structure].factors:  # type: ignore[index]
        found = sum(least_bytes(selected, structure, itemsize).values())
        return found, found
    kept = largest = 0
    for members in _modules(selected).values():
        size = _size(members)
        shapes = {each.name.rpartition(".")[2]: each.shape for each in members}
        weight = list(shapes.get("weight", ()))
        sides = 0, 0
        if len(weight) >= _MATRIX and set(shapes) <= {"weight", "bias"}:
            sides = weight[0], prod(weight[1:]) + len(members) - 1
        if not 0 < max(sides) <= LARGEST_SIDE:
            kept += _SUM_BYTES * size
            continue
        numbers = sides[0] ** 2 + sides[1] ** 2
        kept += (
            itemsize * numbers + 2 * _SUM_BYTES * size
        )  # of eigenvalues there are the sums, and their means
        largest = max(largest, _SUM_BYTES * numbers)
    return kept, kept + largest


def module_sizes(selected: Sequence[ParameterSpec]) -> dict[str, int]:
    """Parameters of each module."""
    return {name: _size(members) for name, members in _modules(selected).items()}


def _modules(selected: Sequence[ParameterSpec]) -> dict[str, list[ParameterSpec]]:
    found: dict[str, list[ParameterSpec]] = {}
    for each in selected:
        found.setdefault(each.module, []).append(each)
    return found


def _size(members: Sequence[ParameterSpec]) -> int:
    return sum(prod(each.shape) for each in members)


def _exact_or_diagonal(members: Sequence[ParameterSpec], number: int) -> int:
    size = _size(members)
    return size * size * number if size <= LARGE_BLOCK else _SUM_BYTES * size


def _factors(members: Sequence[ParameterSpec], number: int) -> int:
    """Of one weight with a bias of its outputs: Kronecker factors. Of anything else, no less than a diagonal."""
    size = _size(members)
    shapes = {each.name.rpartition(".")[2]: each.shape for each in members}
    weight, bias = shapes.get("weight"), shapes.get("bias")
    if weight is None or bias is None or len(members) != _MATRIX or len(weight) < _MATRIX:
        return _SUM_BYTES * size
    outputs = bias[0]
    inside = prod(weight) // outputs
    if len(bias) != 1 or outputs not in weight[:_MATRIX] or max(outputs, inside + 1) > LARGEST_SIDE:
        return _SUM_BYTES * size
    # Of a convolution the number of groups is not known: as many as make it least.
    left = outputs**2 if len(weight) == _MATRIX else outputs
    return (left + (inside + 1) ** 2) * number + _SUM_BYTES * size
