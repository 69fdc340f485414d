"""The model and the rows that both sides load: trained once, with a seed, and kept.

The digits are those that scikit-learn ships, 8 × 8 pixels scaled to [0, 1]: 1,400 to train on and
397 to test. Training stops early: run to the end, gradients are as good as zero and every influence
is a quotient of roundings. How early is each model's: the more loss is left, the more negative are
eigenvalues of H, and H + λI has to be positive definite.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.peers.models import BUILDERS
from benchmarks.peers.places import CACHE, ignored

TRAINING_ROWS = 1400
# Of Adam on all rows at once: the mean loss to stop at, and the learning rate.
TRAINING = {
    "small": (0.033, 3e-3),
    "wide": (0.005, 1e-3),
    "convolutional": (0.033, 3e-3),
    "encoder": (0.001, 3e-3),
}
MOST_STEPS = 20_000
SEED = 0


@dataclass(frozen=True)
class Rows:
    """Pixels (n, 64) in float32 and classes (n,)."""

    inputs: Tensor
    targets: Tensor

    def first(self, count: int) -> Rows:
        """The first `count` of them."""
        return Rows(self.inputs[:count], self.targets[:count])

    def block(self, count: int, number: int) -> Rows:
        """`count` of them, after `number` times as many; past the last row comes the first."""
        rows = torch.arange(number * count, (number + 1) * count) % len(self.targets)
        return Rows(self.inputs[rows], self.targets[rows])

    def to(self, dtype: torch.dtype) -> Rows:
        """With the pixels in another type."""
        return Rows(self.inputs.to(dtype), self.targets)


@dataclass(frozen=True)
class Trained:
    """A model in eval mode and the rows it was trained and is tested on."""

    model: nn.Module
    train: Rows
    test: Rows


def prepared(model: str) -> Path:
    """The file of this model; trains it if it is not there. Needs scikit-learn."""
    path = ignored(CACHE) / f"{model}.npz"
    if not path.is_file():
        train, test = _digits()
        weights = _trained(model, train)
        arrays = {f"weights/{name}": value.numpy() for name, value in weights.items()}
        for name, rows in (("train", train), ("test", test)):
            arrays |= {
                f"{name}/inputs": rows.inputs.numpy(),
                f"{name}/targets": rows.targets.numpy(),
            }
        np.savez(path, **arrays)
    return path


def load(model: str, path: Path) -> Trained:
    """What `prepared` kept."""
    with np.load(path) as kept:
        arrays = {name: torch.from_numpy(kept[name]) for name in kept.files}
    module = BUILDERS[model]()
    module.load_state_dict(
        {name.removeprefix("weights/"): arrays[name] for name in arrays if "weights/" in name}
    )
    train, test = (
        Rows(arrays[f"{of}/inputs"], arrays[f"{of}/targets"]) for of in ("train", "test")
    )
    return Trained(module.eval(), train, test)


def _digits() -> tuple[Rows, Rows]:
    from sklearn.datasets import load_digits

    inputs, targets = load_digits(return_X_y=True)
    order = np.random.default_rng(SEED).permutation(len(inputs))
    pixels = torch.from_numpy((inputs[order] / 16.0).astype(np.float32))
    classes = torch.from_numpy(targets[order].astype(np.int64))
    cut = TRAINING_ROWS
    return Rows(pixels[:cut], classes[:cut]), Rows(pixels[cut:], classes[cut:])


def _trained(name: str, rows: Rows) -> dict[str, Tensor]:
    torch.manual_seed(SEED)
    model = BUILDERS[name]()
    final, rate = TRAINING[name]
    optimiser = torch.optim.Adam(model.parameters(), lr=rate)
    for _ in range(MOST_STEPS):
        optimiser.zero_grad()
        loss = nn.functional.cross_entropy(model(rows.inputs), rows.targets)
        if float(loss.detach()) <= final:
            return {key: value.detach() for key, value in model.state_dict().items()}
        loss.backward()
        optimiser.step()
    raise RuntimeError(f"{name} did not reach a loss of {final} in {MOST_STEPS} steps")
