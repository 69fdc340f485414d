"""scikit-learn's handwritten digits, some training labels flipped on purpose, and a small network trained on them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

SEED = 7
TRAIN_ROWS = 1_400  # of 1,797; the rest is for testing
FLIPPED_SHARE = 0.05
WEIGHT_DECAY = 1e-2
STEPS = 150
RECIPE = {"optimizer": "lbfgs", "lr": 1.0, "weight_decay": WEIGHT_DECAY, "epochs": STEPS}
DAMPING = 5e-2  # λ: above the weight decay, since the loss of a network is not convex


@dataclass(frozen=True)
class Digits:
    """Pixels in [0, 1], labels, and which training rows were given a wrong label."""

    x_train: np.ndarray
    y_train: np.ndarray
    true_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray

    @property
    def flipped(self) -> np.ndarray:
        """The training rows whose label is wrong."""
        return np.flatnonzero(self.y_train != self.true_train)


def load() -> Digits:
    """The digits, shuffled and flipped with a seed."""
    from sklearn.datasets import load_digits  # takes seconds; tests of pages import the rest

    pixels, labels = load_digits(return_X_y=True)
    generator = np.random.default_rng(SEED)
    order = generator.permutation(len(labels))
    x, y = (pixels[order] / 16).astype("f4"), labels[order].astype("i8")
    noisy = y[:TRAIN_ROWS].copy()
    chosen = generator.choice(TRAIN_ROWS, round(FLIPPED_SHARE * TRAIN_ROWS), replace=False)
    noisy[chosen] = (noisy[chosen] + generator.integers(1, 10, len(chosen))) % 10
    return Digits(x[:TRAIN_ROWS], noisy, y[:TRAIN_ROWS], x[TRAIN_ROWS:], y[TRAIN_ROWS:])


def untrained() -> nn.Module:
    """A network of 2,410 parameters, as its training begins."""
    torch.manual_seed(SEED)
    return nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10)).eval()


def train(digits: Digits) -> nn.Module:
    """The network, trained to its optimum under weight decay, in eval mode; `RECIPE` says the same."""
    network = untrained()
    x, y = torch.from_numpy(digits.x_train), torch.from_numpy(digits.y_train)
    optimizer = torch.optim.LBFGS(
        network.parameters(), max_iter=STEPS, line_search_fn="strong_wolfe"
    )

    def objective() -> torch.Tensor:
        optimizer.zero_grad()
        penalty = sum((each.square().sum() for each in network.parameters()), torch.tensor(0.0))
        loss = cross_entropy(network(x), y) + WEIGHT_DECAY / 2 * penalty
        loss.backward()
        return loss

    optimizer.step(objective)
    return network.eval()


def accuracy(network: nn.Module, x: np.ndarray, y: np.ndarray) -> float:
    """The share of rows that the network gets right."""
    with torch.no_grad():
        return float((network(torch.from_numpy(x)).argmax(1).numpy() == y).mean())
