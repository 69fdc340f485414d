"""Rewrites operators that write in place, where nobody else reads what they overwrite.

`out += identity` of a ResNet is `add_` in an exported program. With nothing left that reads the old `out`, it is `add`.
"""

from __future__ import annotations

import torch
from torch import fx

# Return what they are given where they have nothing to do, though their schemas do not say so.
_PASS_THROUGH = frozenset({"dropout", "feature_dropout", "alpha_dropout", "native_dropout"})


def without_writes(module: fx.GraphModule) -> fx.GraphModule:
    """The same function with fewer operators that write in place; the module itself where there are none.

    It shares all parameters and buffers with `module`. What can't be rewritten is left as it is.
    """
    if not any(_functional(node) for node in module.graph.nodes):
        return module
    graph = fx.Graph()
    copied: dict[fx.Node, fx.Node] = {}
    graph.output(graph.graph_copy(module.graph, copied))
    nodes = list(module.graph.nodes)
    for node in _unread_writes(nodes):
        functional = _functional(node)
        assert functional is not None
        copied[node].target = functional
    found = fx.GraphModule(module, graph)
    found.graph.owning_module = None  # as of the module itself: see `prepared`
    return found


def _unread_writes(nodes: list[fx.Node]) -> list[fx.Node]:
    """Nodes that overwrite what no later node reads but through them."""
    position = {node: i for i, node in enumerate(nodes)}
    memory: dict[
        fx.Node, list[fx.Node]
    ] = {}  # a node to all nodes up to here that may share its memory
    found = []
    for node in nodes:
        shared = [node]
        for source in _sources(node):
            if memory[source] is not shared:
                shared += memory[source]
        memory.update(dict.fromkeys(shared, shared))
        if _functional(node) is None:
            continue
        others = [each for each in shared if each is not node]
        outside = any(each.op in ("placeholder", "get_attr") for each in others)
        read = any(position[user] > position[node] for each in others for user in each.users)
        if not outside and not read:
            found.append(node)
    return found


def _sources(node: fx.Node) -> list[fx.Node]:
    """Whose memory the node's value may lie in: all that it takes, unless its schema says that it is new."""
    target = node.target
    if isinstance(target, torch._ops.OpOverload) and not _may_share(target):
        return []
    return node.all_input_nodes


def _may_share(target: torch._ops.OpOverload) -> bool:
    schema = target._schema
    if target.namespace != "aten" or schema.name.partition("::")[2] in _PASS_THROUGH:
        return True
    return any(each.alias_info is not None for each in schema.returns)


def _functional(node: fx.Node) -> torch._ops.OpOverload | None:
    """The operator that answers what this one writes into its first argument; None for any other node."""
    target = node.target
    if not isinstance(target, torch._ops.OpOverload) or target.namespace != "aten":
        return None
    name = target.overloadpacket.__name__
    writes = [
        each.alias_info is not None and each.alias_info.is_write
        for each in target._schema.arguments
    ]
    if (
        not name.endswith("_")
        or name.startswith("__")
        or writes != [True, *[False] * (len(writes) - 1)]
    ):
        return None
    packet = getattr(torch.ops.aten, name.removesuffix("_"), None)
    functional = getattr(packet, target._overloadname, None)
    return functional if isinstance(functional, torch._ops.OpOverload) else None
