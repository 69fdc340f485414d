"""What a model returns, tensor by tensor with its name and place, and which of it the loss takes.

torch is imported when called, not before.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch.export import ExportedProgram

Output = str | int | Sequence[str | int] | None  # as in a request: null where there is one tensor
ALONE = "output"  # the name of a tensor that is returned as it is
_SHOWN = 20
_DEEPEST = 32


class OutputUnclear(ValueError):
    """Which tensor the loss takes is not said, or there is none of that name; the words list what there is."""


@dataclass(frozen=True)
class Returned:
    """One tensor of what a model returns: by names (keys, fields) and by places, the outermost container first.

    A dimension of None is free; the batch is first. `value` is the tensor itself, or what stands for it.
    """

    path: tuple[str, ...]
    places: tuple[int, ...]
    dtype: str
    shape: tuple[int | None, ...]
    value: Any

    @property
    def name(self) -> str:
        """Of keys, fields and places, with dots between them."""
        return ".".join(self.path) or ALONE

    def __str__(self) -> str:
        sizes = ("n" if size is None else str(size) for size in self.shape)
        return f"{self.name!r} {self.dtype} ({', '.join(sizes)})"


def choose(returned: Sequence[Returned], output: Output) -> tuple[Returned, ...]:
    """The tensors that the loss takes, one for each name or place in `output`. Raises OutputUnclear."""
    if not returned:
        raise OutputUnclear(
            "the model returns no tensor: its forward must return a tensor with one row per example, alone or in a "
            "tuple, a dict or a dataclass"
        )
    if output is None:
        if len(returned) == 1:
            return tuple(returned)
        raise OutputUnclear(
            f"the model returns {len(returned)} tensors, and which of them the loss takes is not said: name it, as in "
            f"output={_example(returned)!r} (for gaussian_nll two, the mean and the variance). "
            f"It returns {_listed(returned)}"
        )
    wanted = [output] if isinstance(output, str | int) else list(output)
    return tuple(_one(returned, each) for each in wanted)


def _one(returned: Sequence[Returned], wanted: str | int) -> Returned:
    for matches in _ways(returned, wanted):
        if len(matches) == 1:
            return matches[0]
        if matches:
            raise OutputUnclear(
                f"output={wanted!r} is {len(matches)} tensors: name one. The model returns {_listed(returned)}"
            )
    if isinstance(wanted, int) and wanted < 0:
        last = max((each.places[0] for each in returned if each.places), default=0)
        raise OutputUnclear(
            f"output={wanted} is no place: places count from 0, here to {last}; or give a name. The model returns "
            f"{_listed(returned)}"
        )
    near = difflib.get_close_matches(str(wanted), [each.name for each in returned], n=1)
    meant = f"; did you mean {near[0]!r}?" if near else "."
    raise OutputUnclear(
        f"there is no output {wanted!r}{meant} The model returns {_listed(returned)}"
    )


def _ways(returned: Sequence[Returned], wanted: str | int) -> Iterator[list[Returned]]:
    """By name; by the name of a container; by place."""
    name = str(wanted)
    yield [each for each in returned if each.name == name]
    yield [each for each in returned if each.name.startswith(f"{name}.")]
    if wanted == 0:
        yield [each for each in returned if not each.path]
    places = [(each, ".".join(map(str, each.places))) for each in returned]
    yield [each for each, place in places if place == name]
    yield [each for each, place in places if place.startswith(f"{name}.")]


def _example(returned: Sequence[Returned]) -> str | int:
    likely = [each for each in returned if each.dtype.startswith("float") and each.shape]
    name = (likely or list(returned))[-1].name
    return int(name) if name.isdigit() else name


def _listed(returned: Sequence[Returned]) -> str:
    more = f" and {len(returned) - _SHOWN} more" if len(returned) > _SHOWN else ""
    return (", ".join(map(str, returned[:_SHOWN])) or "no tensor") + more


def spelt(chosen: Sequence[Returned], output: Output) -> Output:
    """`output` by the names of what it chose, where it is said otherwise."""
    if output is None:
        return None
    wanted = [output] if isinstance(output, str | int) else list(output)
    found = [
        given if str(given) == each.name else each.name
        for given, each in zip(wanted, chosen, strict=True)
    ]
    return found[0] if isinstance(output, str | int) else found


def tensors_of(value: Any, rows: int | None = None) -> list[Returned]:
    """The tensors of what a module returned: in tuples, lists, dicts, dataclasses and whatever torch's pytree knows.

    Objects of other kinds are passed over. A first dimension of `rows` is shown as free.
    """
    return list(_walk(value, (), (), rows))


def _walk(
    value: Any, path: tuple[str, ...], places: tuple[int, ...], rows: int | None
) -> Iterator[Returned]:
    import torch

    if isinstance(value, torch.Tensor):
        shape: tuple[int | None, ...] = tuple(
            size if isinstance(size, int) else None for size in value.shape
        )
        if rows is not None and shape[:1] == (rows,):
            shape = (None, *shape[1:])
        yield Returned(path, places, str(value.dtype).removeprefix("torch."), shape, value)
    elif len(path) < _DEEPEST:
        for place, (name, inner) in enumerate(_parts(value)):
            yield from _walk(inner, (*path, name), (*places, place), rows)


def _parts(value: Any) -> list[tuple[str, Any]]:
    from torch.utils import _pytree as pytree

    if isinstance(value, Mapping):
        return [(str(key), inner) for key, inner in value.items()]
    if isinstance(value, tuple | list):
        names: Any = getattr(type(value), "_fields", None) or range(len(value))
        return [(str(name), inner) for name, inner in zip(names, value, strict=True)]
    if is_dataclass(value) and not isinstance(value, type):
        return [(field.name, getattr(value, field.name)) for field in fields(value)]
    if type(value) in pytree.SUPPORTED_NODES:
        inners, _ = pytree.SUPPORTED_NODES[type(value)].flatten_fn(value)
        return [(str(place), inner) for place, inner in enumerate(inners)]
    return []


def tensors_of_program(program: ExportedProgram) -> list[Returned]:
    """The tensors that an exported program returns, as its graph describes them."""
    from torch.utils import _pytree as pytree

    values = {node.name: node.meta.get("val") for node in program.graph.nodes}
    found = [
        values.get(one) if isinstance(one, str) else one
        for one in program.graph_signature.user_outputs
    ]
    signature = program.module_call_graph[0].signature
    if signature is None:
        return tensors_of(tuple(found) if len(found) > 1 else found[0])
    return tensors_of(pytree.tree_unflatten(found, signature.out_spec))
