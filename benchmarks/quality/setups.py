"""The anchors' set-ups on data that scikit-learn bundles: rows, network, training. Torch alone but for the data.

The papers' own data may not be downloaded: digits stand in for MNIST and the whole of the UCI digits, diabetes for
Concrete and Parkinsons. Set-ups are kept otherwise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

SEED = 42


@dataclass(frozen=True)
class Training:
    """How a network is trained: by AdamW, or by SGD with momentum."""

    rate: float
    decay: float
    batch: int
    epochs: int
    momentum: float | None = None  # of SGD; None: AdamW
    to_the_optimum: bool = (
        False  # of the loss with decay / 2 ‖θ‖², by L-BFGS in float64; the rest is not used
    )


@dataclass(frozen=True)
class Setup:
    """One anchor. `sizes`: of the layers of an MLP."""

    name: str
    sizes: tuple[int, ...]
    activation: type[nn.Module]
    loss: str
    training: Training
    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]

    def module(self, weights: list[Tensor] | None = None) -> nn.Sequential:
        """The network, with weights (out, in) and biases (out,) in turn."""
        layers: list[nn.Module] = []
        for inside, outside in zip(self.sizes, self.sizes[1:], strict=False):
            layers += [nn.Linear(inside, outside), self.activation()]
        module = nn.Sequential(*layers[:-1])
        if weights is not None:
            with torch.no_grad():
                for own, given in zip(module.parameters(), weights, strict=True):
                    own.copy_(given)
        return module

    @property
    def forward_activation(self) -> nn.Module:
        """Between the layers."""
        return self.activation()


DIGITS_MLP = (
    "A1 digits MLP",
    (64, 16, 10),
    nn.Tanh,
    "cross_entropy",
    Training(5e-4, 1e-4, 128, 500),
)
DIABETES_MLP = (
    "A2/A3 diabetes MLP", (10, 128, 128, 128, 1), nn.ReLU, "mse",
    Training(0.03, 1e-5, 32, 20, momentum=0.9),
)  # fmt: skip
DIGITS_WIDE = (
    "A7 digits wide MLP", (64, 300, 300, 10), nn.ReLU, "cross_entropy",
    Training(0.02, 0.0, 64, 10, momentum=0.9),
)  # fmt: skip
DIGITS_LR = (
    "A6 digits regression", (64, 10), nn.Tanh, "cross_entropy",
    Training(1.0, 1e-2, 0, 0, to_the_optimum=True),
)  # fmt: skip


def digits_regression() -> Setup:
    """A6: logistic regression at its optimum, weight decay 1e-2; 90/10, 50 queries."""
    x, y = _digits()
    cut = len(x) * 9 // 10
    return Setup(*DIGITS_LR, (x[:cut], y[:cut]), (x[cut : cut + 50], y[cut : cut + 50]))


def digits_mlp() -> Setup:
    """A1: 64-16-10 tanh, AdamW 5e-4, weight decay 1e-4, batch 128, 500 epochs; 90/10, 50 queries."""
    x, y = _digits()
    cut = len(x) * 9 // 10
    return Setup(*DIGITS_MLP, (x[:cut], y[:cut]), (x[cut : cut + 50], y[cut : cut + 50]))


def diabetes_mlp() -> Setup:
    """A2 and A3: four layers with 128 hidden units, SGD 0.03 with momentum 0.9, decay 1e-5, batch 32, 20 epochs."""
    from sklearn.datasets import load_diabetes

    x, y = load_diabetes(return_X_y=True)
    order = np.random.default_rng(SEED).permutation(len(x))
    x, y = x[order], y[order]
    x, y = (x - x.mean(0)) / x.std(0), (y - y.mean()) / y.std()
    rows = torch.from_numpy(x.astype(np.float32)), torch.from_numpy(y.astype(np.float32))[:, None]
    cut = len(x) * 9 // 10
    return Setup(*DIABETES_MLP, (rows[0][:cut], rows[1][:cut]), (rows[0][cut:], rows[1][cut:]))


def digits_wide() -> Setup:
    """A7: 64-300-300-10, SGD 0.02 with momentum 0.9, batch 64, 10 epochs; 90/10, 50 queries. The paper's network is
    784-128-64-10, of as many parameters, 0.11 M, trained at 0.01 for 50 epochs."""
    x, y = _digits()
    cut = len(x) * 9 // 10
    return Setup(*DIGITS_WIDE, (x[:cut], y[:cut]), (x[cut : cut + 50], y[cut : cut + 50]))


SETUPS: dict[str, Callable[[], Setup]] = {
    "A1": digits_mlp,
    "A2": diabetes_mlp,
    "A6": digits_regression,
    "A7": digits_wide,
}


KNOWN = (DIGITS_MLP, DIABETES_MLP, DIGITS_LR, DIGITS_WIDE)


def by_name(name: str, train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor]) -> Setup:
    """With rows that are given: where scikit-learn is not there to load them."""
    known = next(each for each in KNOWN if each[0] == name)
    return Setup(*known, train, test)


def _digits() -> tuple[Tensor, Tensor]:
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(SEED).permutation(len(x))
    return (
        torch.from_numpy((x[order] / 16.0).astype(np.float32)),
        torch.from_numpy(y[order].astype(np.int64)),
    )
