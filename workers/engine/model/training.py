"""Calls of operators that would behave as in training: by chance, or by statistics that are being updated.

The one rule, for graphs that the engine is given and for archives that are read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from torch import fx
from torch._ops import OpOverload

Behaviour = Literal["chance", "statistics"]

_CHANCE = frozenset(
    """
    alpha_dropout dropout feature_alpha_dropout feature_dropout native_dropout gru lstm rnn_relu rnn_tanh
    scaled_dot_product_attention
    """.split()  # noqa: SIM905
)
_STATISTICS = frozenset(
    {"batch_norm", "instance_norm", "native_batch_norm", "_native_batch_norm_legit"}
)


def training_behaviour(op: OpOverload, given: Mapping[str, Any]) -> Behaviour | None:
    """What makes a call with these arguments, by name, one of training; None if nothing does."""
    name = op._schema.name.removeprefix("aten::")
    if name not in _CHANCE and name not in _STATISTICS and name != "rrelu":
        return None
    arguments = {
        each.name: each.default_value for each in op._schema.arguments if each.has_default_value()
    } | dict(given)
    if name == "rrelu":
        return "chance" if arguments.get("training", False) is not False else None
    if name in _CHANCE:
        # Attention has no switch; dropout with a chance of 0 is none.
        switched = arguments.get("train", True) is not False
        chance = arguments.get("dropout_p", arguments.get("dropout", arguments.get("p", 0.0)))
        return "chance" if switched and chance != 0 else None
    switched = arguments.get("training", arguments.get("use_input_stats", False)) is not False
    # Without running statistics the mode makes no difference: either they are those of each row, as in instance
    # normalisation, or running the program shows that rows see each other.
    return "statistics" if switched and arguments.get("running_mean") is not None else None


def training_nodes(graph: fx.Graph) -> list[fx.Node]:
    """The nodes of a graph that are such calls."""
    found = []
    for node in graph.nodes:
        if not isinstance(node.target, OpOverload):
            continue
        names = [each.name for each in node.target._schema.arguments]
        given = {**dict(zip(names, node.args, strict=False)), **node.kwargs}
        if training_behaviour(node.target, given):
            found.append(node)
    return found
