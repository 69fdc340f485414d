"""The four networks of the comparison; everything that runs here builds them from this file."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn

SIDE = 8  # a digit is 8 × 8 pixels, flat in a row of 64
CLASSES = 10


class Convolutional(nn.Module):
    """Two convolutions and a linear layer: 7,546 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Unflatten(1, (1, SIDE, SIDE)),
            nn.Conv2d(1, 8, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(8, 32, 3, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(32 * 4 * 4, CLASSES),
        )

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, 64) to logits (B, 10)."""
        return self.layers(pixels)


class Encoder(nn.Module):
    """One transformer encoder layer over the rows of a digit: 9,418 parameters.

    Attention is written out in elementary operations: the fused kernels have no second derivative,
    and not every library here knows how to avoid them.
    """

    def __init__(self, width: int = 32, heads: int = 4, hidden: int = 64) -> None:
        super().__init__()
        self.heads = heads
        self.embed = nn.Linear(SIDE, width)
        self.position = nn.Parameter(0.1 * torch.randn(SIDE, width))
        self.project = nn.Linear(width, 3 * width)
        self.merge = nn.Linear(width, width)
        self.expand = nn.Linear(width, hidden)
        self.contract = nn.Linear(hidden, width)
        self.before, self.after = nn.LayerNorm(width), nn.LayerNorm(width)
        self.head = nn.Linear(width, CLASSES)

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, 64) to logits (B, 10)."""
        hidden = self.embed(pixels.unflatten(1, (SIDE, SIDE))) + self.position
        hidden = self.before(hidden + self._attend(hidden))
        fed = self.contract(nn.functional.gelu(self.expand(hidden)))
        return self.head(self.after(hidden + fed).mean(1))

    def _attend(self, hidden: Tensor) -> Tensor:
        parts = self.project(hidden).unflatten(-1, (3, self.heads, -1))
        query, key, value = parts.permute(2, 0, 3, 1, 4)  # each (B, heads, 8, width / heads)
        scores = query @ key.transpose(-2, -1) / query.shape[-1] ** 0.5
        mixed = scores.softmax(-1) @ value
        return self.merge(mixed.transpose(1, 2).flatten(2))


def small() -> nn.Module:
    """64-32-10, tanh: 2,410 parameters."""
    return perceptron(64, 32, CLASSES, activation=nn.Tanh)


def wide() -> nn.Module:
    """64-256-256-10, relu: 85,002 parameters."""
    return perceptron(64, 256, 256, CLASSES, activation=nn.ReLU)


def perceptron(*widths: int, activation: Callable[[], nn.Module]) -> nn.Module:
    """Linear layers of these widths with the activation between them."""
    layers: list[nn.Module] = []
    for inside, outside in pairwise(widths):
        layers += [nn.Linear(inside, outside), activation()]
    return nn.Sequential(*layers[:-1])


BUILDERS: dict[str, Callable[[], nn.Module]] = {
    "small": small,
    "wide": wide,
    "convolutional": Convolutional,
    "encoder": Encoder,
}
