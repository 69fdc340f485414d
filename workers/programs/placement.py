"""Moves a program to a device, together with the tensors that its graph makes anew."""

from typing import Any

import torch
from torch import fx, nn


def place(module: nn.Module, device: torch.device) -> nn.Module:
    """The module on `device`. Graphs name the device of each `arange` and `zeros`: these follow."""
    if isinstance(module, fx.GraphModule):
        for node in module.graph.nodes:
            node.args = _moved(node.args, device)
            node.kwargs = _moved(node.kwargs, device)
        module.recompile()
    return module.to(device)


def _moved(arguments: Any, device: torch.device) -> Any:
    return fx.node.map_aggregate(
        arguments, lambda value: device if isinstance(value, torch.device) else value
    )
