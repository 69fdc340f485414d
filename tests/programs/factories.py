"""Factories that an operator may have allowed."""

from pathlib import Path
from typing import Any

import torch
from torch import nn


class Tied(nn.Module):
    """Embedding and head share a weight; there is a buffer, too."""

    def __init__(self, width: int = 4, broken: bool = False) -> None:
        super().__init__()
        if broken:
            raise KeyError("broken")
        self.embed = nn.Embedding(10, width)
        self.norm = nn.BatchNorm1d(width)
        self.head = nn.Linear(width, 10, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x: torch.Tensor) -> dict[str, Any]:
        return {"logits": self.head(self.norm(self.embed(x))), "x": x}


def no_module() -> str:
    """Makes something else."""
    return "no module"


def forbidden(path: str) -> nn.Module:
    """Shows that it ran."""
    Path(path).touch()
    return nn.Linear(1, 1)


def weight_normed() -> nn.Module:
    """A network whose second derivative torch has wrong, as nothing writes its operators out."""
    torch.manual_seed(0)
    normed = nn.utils.parametrizations.weight_norm
    return nn.Sequential(normed(nn.Linear(3, 4)), nn.Tanh(), nn.Linear(4, 2))
