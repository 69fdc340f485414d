"""What the journeys are about: small models with data, registered once, and known to the formula."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.journeys.formulas import Formula, Loss
from upweight import Client

REFERENCES = Path(__file__).parent.parent / "engine" / "reference"


@dataclass(frozen=True)
class Subject:
    """A model in float64 and its rows. `exact` holds stored influences where there are some."""

    name: str
    module: nn.Module
    loss: str
    mean_loss: Loss
    x_train: Tensor
    y_train: Tensor
    x_test: Tensor
    y_test: Tensor
    damping: float
    exact: Mapping[str, Any]

    @property
    def train(self) -> str:
        return f"{self.name}-train"

    @property
    def test(self) -> str:
        return f"{self.name}-test"

    @property
    def names(self) -> tuple[str, str, str]:
        """Model, training set, test set."""
        return self.name, self.train, self.test

    @property
    def size(self) -> int:
        """p."""
        return sum(each.numel() for each in self.module.parameters())

    @property
    def formula(self) -> Formula:
        return Formula(self.module, self.mean_loss, self.x_train, self.y_train, self.damping)

    def register(self, client: Client) -> None:
        """Model and data, through the SDK."""
        client.models.register(self.name, self.module, example=self.x_train[:2], loss=self.loss)
        client.datasets.register(self.train, x=self.x_train, y=self.y_train)
        client.datasets.register(self.test, x=self.x_test, y=self.y_test)


def stored(name: str, loss: str, mean_loss: Loss) -> Subject:
    """One of the two stored reference problems."""
    with np.load(REFERENCES / f"{name}.npz") as file:
        arrays = {key: np.array(file[key]) for key in file.files}
    module = nn.Linear(*reversed(arrays["theta.weight"].shape)).double()
    module.load_state_dict(
        {key: torch.from_numpy(arrays[f"theta.{key}"]) for key in ("weight", "bias")}
    )
    rows = {
        key: torch.from_numpy(arrays[key]) for key in ("x_train", "y_train", "x_test", "y_test")
    }
    return Subject(
        name, module, loss, mean_loss, **rows, damping=float(arrays["lam"]), exact=arrays
    )


def regression() -> Subject:
    """Three outputs of five features."""
    return stored("linear-regression", "mse", lambda outputs, y: F.mse_loss(outputs, y))


def iris() -> Subject:
    """Softmax regression on real flowers."""
    return stored("softmax-iris", "cross_entropy", lambda outputs, y: F.cross_entropy(outputs, y))


class Words(nn.Module):
    """Classifies rows of token numbers by the mean of their embeddings."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 3)
        self.inner = nn.Linear(3, 4)
        self.head = nn.Linear(4, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(torch.tanh(self.inner(self.embedding(tokens).mean(1))))


def words() -> Subject:
    """A network on token numbers, not convex."""
    generator = torch.Generator().manual_seed(3)
    with torch.random.fork_rng():
        torch.manual_seed(4)
        module = Words().double()
    tokens = torch.randint(0, 7, (36, 5), generator=generator)
    labels = tokens[:, 0] % 3
    return Subject(
        "words", module, "cross_entropy", lambda outputs, y: F.cross_entropy(outputs, y),
        tokens[:30], labels[:30], tokens[30:], labels[30:], damping=0.5, exact={},
    )  # fmt: skip
