"""Which part of what a model returns counts: its first tensor."""

from typing import Any

import torch
from torch import nn
from torch.utils import _pytree

from workers.programs.errors import OutputUnsupported


def return_first_tensor(module: nn.Module) -> None:
    """Makes the module return the first tensor of its tuple or dict."""
    module.register_forward_hook(lambda _module, _inputs, result: _first_tensor(result))


def _first_tensor(result: Any) -> torch.Tensor:
    leaves = (result,) if isinstance(result, torch.Tensor) else _pytree.tree_leaves(result)
    found = next((leaf for leaf in leaves if isinstance(leaf, torch.Tensor)), None)
    if found is None:
        raise OutputUnsupported(
            "the model returns no tensor: its forward must return a tensor with one row per "
            "example, alone or first in a tuple or dict"
        )
    return found
