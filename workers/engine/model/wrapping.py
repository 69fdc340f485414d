"""A model made ready: a copy in the wanted dtype, refused where its rows would not be independent.

Takes nn.Modules and fx graphs (such as `torch.export.export(...).module()`) alike.
"""

from __future__ import annotations

import copy
import warnings
from typing import Any

import torch
from torch import fx, nn

from workers.engine.errors import NoSuchParameter, NotFinite, TrainingMode
from workers.engine.model.dtypes import cast, follow, own_dtype
from workers.engine.model.training import training_nodes

_BATCH_COUPLED = (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm)
_RANDOM = (nn.modules.dropout._DropoutNd, nn.RReLU)


def prepared(
    module: nn.Module, dtype: torch.dtype | None, device: torch.device | str | None
) -> nn.Module:
    """A copy that is ours to move and cast; the caller's module is never touched.

    Raises TrainingMode, and NotFinite naming a weight that is NaN or Inf.
    """
    refuse_training(module)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch's own, on copying its tree specs
        ours = copy.deepcopy(module, _computed(module))
    _retie(ours, module)
    dtype = dtype or own_dtype(ours)
    if isinstance(ours, fx.GraphModule):
        follow(ours, dtype)
    ours = cast(ours, dtype, device)
    for name, parameter in ours.named_parameters():
        if not bool(torch.isfinite(parameter).all()):
            raise NotFinite("the weights", parameter=name)
    if isinstance(ours, fx.GraphModule):
        # A graph that names its module holds all weights in a circle: until Python's collector comes across it.
        ours.graph.owning_module = None
    return ours.requires_grad_(False)


def _computed(module: nn.Module) -> dict[int, Any]:
    # `nn.utils.weight_norm` keeps the weight that it computed, which torch does not copy.
    return {
        id(each): each.detach().clone()
        for part in module.modules()
        for each in vars(part).values()
        if isinstance(each, torch.Tensor) and not each.is_leaf
    }


def _retie(ours: nn.Module, original: nn.Module) -> None:
    # An exported program read back from a file has tied weights as two parameters on one memory.
    first: dict[tuple[object, ...], nn.Parameter] = {}
    for name, parameter in original.named_parameters(remove_duplicate=False):
        if not parameter.numel():
            continue
        place = (
            parameter.data_ptr(),
            parameter.shape,
            parameter.stride(),
            parameter.dtype,
            parameter.requires_grad,  # to torch a frozen one is another, whatever memory it shares
        )
        path, _, last = name.rpartition(".")
        owner = ours.get_submodule(path)
        owner.register_parameter(last, first.setdefault(place, owner.get_parameter(last)))


def refuse_training(module: nn.Module) -> None:
    """Raises TrainingMode for dropout or batch statistics that are switched on."""
    for name, each in module.named_modules():
        if isinstance(each, fx.GraphModule):
            for node in training_nodes(each.graph):
                raise TrainingMode(f"node {node.name} ({node.target})")
        if each.training and _depends_on_training(each):
            raise TrainingMode(f"{type(each).__name__} at {name or 'the top'}")


def _depends_on_training(module: nn.Module) -> bool:
    if isinstance(module, nn.modules.instancenorm._InstanceNorm):
        return module.track_running_stats  # without them it is per row in either mode
    if isinstance(module, (nn.RNNBase, nn.MultiheadAttention, *_RANDOM)):
        chance = getattr(module, "dropout", getattr(module, "p", 1.0))
        return not isinstance(chance, float | int) or chance > 0
    return isinstance(module, _BATCH_COUPLED)


def observable(module: nn.Module, name: str) -> tuple[nn.Module, nn.Module]:
    """What to call in place of the module, and its submodule whose output a hook sees as that of `name`.

    In an exported graph hooks on the original modules never fire, so an identity is put after the last node that
    came from the module: in a copy over the same weights, for whoever reads the graph itself must find it as it was,
    whatever has been looked at before. Raises NoSuchParameter for an unknown name.
    """
    known = dict(module.named_modules())
    if isinstance(module, fx.GraphModule) and not (name in known and not _nodes_of(module, name)):
        return _with_identity(module, name)
    if not name or name not in known:
        raise NoSuchParameter(name, [each for each in known if each], kind="module")
    return module, known[name]


def _with_identity(module: fx.GraphModule, name: str) -> tuple[nn.Module, nn.Module]:
    if not _nodes_of(module, name):
        raise NoSuchParameter(name, sorted(_module_names(module)), kind="module")
    tensors = {id(each): each for each in (*module.parameters(), *module.buffers())}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # see `prepared`
        ours = copy.deepcopy(module, dict[int, Any](tensors))
    last, watched = _nodes_of(ours, name)[-1], nn.Identity()
    position = "_observed_" + name.replace(".", "_")
    ours.add_submodule(position, watched)
    with ours.graph.inserting_after(last):
        seen = ours.graph.call_module(position)
    last.replace_all_uses_with(seen)
    seen.args = (last,)
    ours.recompile()
    return ours, watched


def modules_of(node: fx.Node) -> list[str]:
    """The paths of the modules that a node came from, outermost first."""
    return [path for path, _ in node.meta.get("nn_module_stack", {}).values()]


def _nodes_of(graph_module: fx.GraphModule, name: str) -> list[fx.Node]:
    return [
        node
        for node in graph_module.graph.nodes
        if node.op == "call_function" and name in modules_of(node)
    ]


def _module_names(graph_module: fx.GraphModule) -> set[str]:
    return {path for node in graph_module.graph.nodes for path in modules_of(node) if path}


def first_output(value: Any) -> Any:
    """A module's output without the wrapping of one element that exported programs add."""
    while isinstance(value, tuple | list) and len(value) == 1:
        value = value[0]
    return value
