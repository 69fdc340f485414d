"""Which part of what a model returns the loss takes: the one that is named, and never the first by chance."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from upweight.export.outputs import Output, OutputUnclear, Returned, choose, tensors_of
from workers.programs.errors import GraphInvalid, OutputUnsupported
from workers.programs.schema import GraphModule, NamedTuple, TensorMeta

_DEEPEST = 32
Path = tuple[tuple[str, ...], tuple[int, ...]]  # by names and by places


def chosen(returned: Sequence[Returned], output: Output) -> tuple[Returned, ...]:
    """What the loss takes. Raises OutputUnsupported with what there is."""
    try:
        return choose(returned, output)
    except OutputUnclear as error:
        field = "/output" if returned else None
        raise OutputUnsupported(str(error), field=field) from error


def return_chosen(module: nn.Module, output: Output) -> None:
    """Makes the module return the tensor that the loss takes, or a tuple of two."""

    def choice(_module: nn.Module, _inputs: Any, result: Any) -> Any:
        if isinstance(result, torch.Tensor) and output is None:
            return result
        found = tuple(each.value for each in chosen(tensors_of(result), output))
        return found[0] if len(found) == 1 else found

    module.register_forward_hook(choice)


def as_tuple(result: Any) -> tuple[torch.Tensor, ...]:
    """What a program's module returns: one tensor or several."""
    return (result,) if isinstance(result, torch.Tensor) else tuple(result)


def returned_by(module: GraphModule) -> list[Returned]:
    """The tensors that an archive's graph returns, under the names that its own description gives them."""
    outputs = module.graph.outputs
    paths = _paths(module, len(outputs))
    found = []
    for (path, places), argument in zip(paths, outputs, strict=True):
        if argument.kind == "as_tensor":
            name = argument.as_tensor.name
            meta = module.graph.tensor_values.get(name)
            found.append(Returned(path, places, *_described(meta), name))
    return found


def _described(meta: TensorMeta | None) -> tuple[str, tuple[int | None, ...]]:
    from workers.programs.program import dtype_name
    from workers.programs.scalars import dtype_of

    if meta is None:
        return "?", ()
    sizes = tuple(size.as_int if size.kind == "as_int" else None for size in meta.sizes)
    return dtype_name(dtype_of(meta.dtype)), sizes


def _paths(module: GraphModule, count: int) -> list[Path]:
    entry = next((each for each in module.module_call_graph if not each.fqn), None)
    if entry is None or entry.signature is None:
        return [((), ())] if count == 1 else [((str(at),), (at,)) for at in range(count)]
    try:
        _protocol, spec = json.loads(entry.signature.out_spec)
        paths = _leaves(spec, (), (), module.treespec_namedtuple_fields)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise GraphInvalid("what the model returns is not described as torch does it") from error
    if len(paths) != count:
        raise GraphInvalid(f"{len(paths)} outputs are described, {count} are in the graph")
    return paths


def _leaves(
    spec: Any, path: tuple[str, ...], places: tuple[int, ...], tuples: Mapping[str, NamedTuple]
) -> list[Path]:
    kind, inner = spec["type"], spec["children_spec"]
    if kind is None:
        return [(path, places)]
    if len(path) >= _DEEPEST:
        raise ValueError("nested too deep")
    names = _names(kind, spec["context"], len(inner), tuples)
    return [
        leaf
        for place, (name, each) in enumerate(zip(names, inner, strict=True))
        for leaf in _leaves(each, (*path, name), (*places, place), tuples)
    ]


def _names(kind: str, context: Any, count: int, tuples: Mapping[str, NamedTuple]) -> list[str]:
    """Of a container's parts: a dict's keys, the fields of a dataclass or named tuple; else their places."""
    recorded = json.loads(context) if isinstance(context, str) else context
    if isinstance(recorded, dict):  # a defaultdict's
        recorded = recorded.get("dict_context")
    if kind == "collections.namedtuple" and isinstance(recorded, str) and recorded in tuples:
        recorded = tuples[recorded].field_names
    if (
        isinstance(recorded, list) and recorded and isinstance(recorded[0], list)
    ):  # with those that are None
        recorded = recorded[0]
    if isinstance(recorded, list) and len(recorded) == count:
        names = [str(each)[:300] for each in recorded if isinstance(each, str | int)]
        if len(set(names)) == count:
            return names
    return [str(place) for place in range(count)]
