"""The three networks, and their rows: what both sides load. Torch alone."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

VOCABULARY, TOKENS, WIDTH, HEADS, LAYERS = 256, 64, 128, 4, 4


class Block(nn.Module):
    """Causal attention and a feed-forward layer, each after a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.after = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.project, self.merge = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.expand, self.contract = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, hidden: Tensor) -> Tensor:
        """(B, T, width) to the same."""
        parts = self.project(self.before(hidden)).unflatten(-1, (3, HEADS, -1))
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        hidden = hidden + self.merge(mixed.transpose(1, 2).flatten(2))
        return hidden + self.contract(F.gelu(self.expand(self.after(hidden))))


class Decoder(nn.Module):
    """A causal language model over bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, WIDTH)
        self.position = nn.Parameter(0.02 * torch.randn(TOKENS, WIDTH))
        self.blocks = nn.Sequential(*[Block() for _ in range(LAYERS)])
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, VOCABULARY)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, T) to logits (B, T, vocabulary)."""
        return self.head(self.norm(self.blocks(self.embed(tokens) + self.position)))


def mlp() -> nn.Module:
    """64-256-256-10: 85,002 parameters."""
    layers: list[nn.Module] = []
    for inside, outside in pairwise((64, 256, 256, 10)):
        layers += [nn.Linear(inside, outside), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def cnn() -> nn.Module:
    """Convolutions of 32, 64 and 64 channels over 8 × 8 digits, then 1024-128-10."""
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)),
        nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(),
        nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Linear(1024, 128), nn.ReLU(), nn.Linear(128, 10),
    )  # fmt: skip


class Residual(nn.Module):
    """Two convolutions with norms, beside what goes in."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inside, outside, 3, stride, 1, bias=False)
        self.second = nn.Conv2d(outside, outside, 3, 1, 1, bias=False)
        self.norms = nn.ModuleList([nn.BatchNorm2d(outside), nn.BatchNorm2d(outside)])
        changes = stride > 1 or inside != outside
        self.beside: nn.Module = nn.Identity()
        if changes:
            self.beside = nn.Sequential(
                nn.Conv2d(inside, outside, 1, stride, bias=False), nn.BatchNorm2d(outside)
            )

    def forward(self, x: Tensor) -> Tensor:
        """(B, inside, h, w) to (B, outside, h / stride, w / stride)."""
        hidden = F.relu(self.norms[0](self.first(x)))
        return F.relu(self.norms[1](self.second(hidden)) + self.beside(x))


class ResNet18(nn.Module):
    """He et al., 2016, as torchvision has it, for ten classes: 11,181,642 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.begin = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.norm, self.pool = nn.BatchNorm2d(64), nn.MaxPool2d(3, 2, 1)
        sizes = [(64, 64, 1), (64, 128, 2), (128, 256, 2), (256, 512, 2)]
        self.blocks = nn.Sequential(
            *[
                block
                for inside, outside, stride in sizes
                for block in (Residual(inside, outside, stride), Residual(outside, outside, 1))
            ]
        )
        self.head = nn.Linear(512, 10)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, h, w) to (B, 10)."""
        hidden = self.blocks(self.pool(F.relu(self.norm(self.begin(x)))))
        return self.head(hidden.mean((2, 3)))


@dataclass(frozen=True)
class Case:
    """A model with its rows; λ, and the rows of a batch that suit kronfluence."""

    name: str
    module: nn.Module
    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    damping: float
    batch: int

    @property
    def names(self) -> list[str]:
        """Parameters of the layers that kronfluence knows: linear ones and convolutions."""
        return [
            f"{layer}.{name}"
            for layer, own in self.module.named_modules()
            if isinstance(own, nn.Linear | nn.Conv2d)
            for name, _ in own.named_parameters()
        ]


def case(name: str, digits: Path) -> Case:
    """By its name; weights are drawn with a seed. `digits`: an npz of the peers' benchmark."""
    torch.manual_seed(0)
    if name == "decoder":
        rows = torch.randint(0, VOCABULARY, (620, TOKENS + 1))
        x, y = rows[:, :-1].contiguous(), rows[:, 1:].contiguous()
        return Case(name, Decoder().eval(), (x[:600], y[:600]), (x[600:], y[600:]), 1e-1, 50)
    with np.load(digits) as kept:
        train, test = (
            tuple(torch.from_numpy(kept[f"{of}/{what}"]) for what in ("inputs", "targets"))
            for of in ("train", "test")
        )
    module = mlp() if name == "mlp" else cnn()
    test = (test[0][:100], test[1][:100])
    return Case(name, module.eval(), train, test, 1e-4, 350)  # type: ignore[arg-type]
