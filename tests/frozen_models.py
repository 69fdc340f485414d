"""Models of next to no parameters that are trained in part, with rows for them; their targets are three classes."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

ROWS = 12


def rows() -> Tensor:
    return torch.randn(ROWS, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def tokens() -> Tensor:
    return torch.randint(0, 6, (ROWS, 4), generator=torch.Generator().manual_seed(1))


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 3))


def frozen_body() -> nn.Module:
    net = network()
    net[0].requires_grad_(False)
    return net


def only_biases() -> nn.Module:
    net = network()
    for name, value in net.named_parameters():
        value.requires_grad_(name.endswith("bias"))
    return net


class LowRank(nn.Module):
    """A frozen layer with a trained product of two narrow ones beside it."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.lora_A = nn.Parameter(torch.randn(2, base.in_features) / 2)
        self.lora_B = nn.Parameter(torch.randn(base.out_features, 2) / 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + x @ self.lora_A.T @ self.lora_B.T


def adapted() -> nn.Module:
    net = network().requires_grad_(False)
    net[0], net[2] = LowRank(net[0]), LowRank(net[2])
    return net


class Words(nn.Module):
    """Frozen embeddings under a trained head."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(6, 3).requires_grad_(False)
        self.head = nn.Linear(3, 3)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.embed(ids).mean(1).tanh())


class Tied(nn.Module):
    """Scores by the embeddings themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.mix, self.head = nn.Embedding(6, 3), nn.Linear(3, 3), nn.Linear(3, 6)
        self.head.weight = self.embed.weight

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.mix(self.embed(ids).mean(1)).tanh())


def tied_and_frozen() -> nn.Module:
    net = Tied()
    net.head.weight.requires_grad_(False)
    return net


def frozen_twin() -> nn.Module:
    """The head has the embeddings' memory, as a parameter of its own that is frozen."""
    net = Tied()
    net.head.weight = nn.Parameter(net.embed.weight.data, requires_grad=False)
    return net


CASES: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    "a frozen body": (frozen_body, rows),
    "biases alone": (only_biases, rows),
    "low-rank adapters on a frozen base": (adapted, rows),
    "frozen embeddings": (Words, tokens),
    "tied weights that are frozen": (tied_and_frozen, tokens),
    "a frozen parameter on a trained one's memory": (frozen_twin, tokens),
}


def trained_part(module: nn.Module) -> nn.Module:
    """The module whose parameters are those that train alone."""
    ours = copy.deepcopy(module)
    for name, value in list(ours.named_parameters(remove_duplicate=False)):
        if not value.requires_grad:
            path, _, last = name.rpartition(".")
            owner = ours.get_submodule(path)
            delattr(owner, last)
            owner.register_buffer(last, value.detach().clone())
    return ours
