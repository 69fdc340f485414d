"""Retraining on a hundred subsets: as one batched program, and in a plain torch loop.

`python -m benchmarks.retraining`: the digits MLP (64-16-10, tanh), AdamW 5e-4, batches of 128 of half of 1,400 rows.
The plain loop trains some of the models, and its time is scaled up to all; their weights are compared with ours.
With `--least 0.9` the subsets have from nine tenths of a half to a half of the rows, each a size of its own.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from upweight.schema import Recipe
from workers.engine import Problem, TensorRows, Training, make_loss
from workers.retraining.recipes import plan_of

ROWS, HALF = 1_400, 700


def network() -> nn.Module:
    """The model as it is before training."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, 10)).eval()


def together(recipe: Recipe, x: Tensor, y: Tensor, subsets: list[Tensor]) -> Tensor:
    """All models at once: (K, p)."""
    problem = Problem(network(), make_loss("cross_entropy"))
    training = Training(problem, TensorRows(x, y), subsets, plan_of(recipe), problem.theta)
    for _ in training.epochs():
        pass
    assert training.together
    return training.state.theta


def alone(recipe: Recipe, x: Tensor, y: Tensor, rows: Tensor) -> Tensor:
    """One model, as anybody writes it: (p,)."""
    net = network()
    optimiser = torch.optim.AdamW(net.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay)
    loss = nn.CrossEntropyLoss()
    for epoch in range(recipe.epochs):
        generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + epoch)
        for batch in rows[torch.randperm(len(rows), generator=generator)].split(128):
            optimiser.zero_grad()
            loss(net(x[batch]), y[batch]).backward()
            optimiser.step()
    return torch.cat([each.detach().reshape(-1) for each in net.parameters()])


def main() -> None:
    """Prints both times, their ratio, and how far the weights lie apart."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=int, default=100)
    parser.add_argument("--plain", type=int, default=5, help="models of the plain loop")
    parser.add_argument("--epochs", type=int, default=500)
    parser.add_argument("--least", type=float, default=1.0, help="smallest subset, of the largest")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--double", action="store_true", help="in float64")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    digits: Any = load_digits()
    x, y = torch.tensor(digits.data[:ROWS] / 16.0), torch.tensor(digits.target[:ROWS])
    if asked.double:
        torch.set_default_dtype(torch.float64)
    x = x.to(torch.get_default_dtype())
    generator = torch.Generator().manual_seed(1)
    sizes = torch.linspace(HALF, HALF * asked.least, asked.models).round().int().tolist()
    subsets = [torch.randperm(ROWS, generator=generator)[:size].sort()[0] for size in sizes]
    recipe = Recipe(
        optimizer="adamw", lr=5e-4, weight_decay=1e-3, batch_size=128, epochs=asked.epochs
    )
    # The plain loop before and after, so that a machine that is slower for a while is so for both.
    half = max(1, asked.plain // 2)
    places = torch.linspace(0, asked.models - 1, asked.plain).int().tolist()  # of all sizes
    compared = [subsets[place] for place in places]
    plain: list[Tensor] = []
    seconds = 0.0
    ours = torch.empty(0)
    taken = 0.0
    for part in ("plain", "together", "plain"):
        began = time.perf_counter()
        if part == "together":
            ours = together(recipe, x, y, subsets)
            taken = time.perf_counter() - began
            continue
        count = half if not plain else asked.plain - half
        first = len(plain)
        plain += [alone(recipe, x, y, compared[first + each]) for each in range(count)]
        seconds += time.perf_counter() - began
    scaled = seconds / asked.plain * asked.models
    apart = max(
        float((a - b).abs().max() / b.abs().max()) for a, b in zip(ours[places], plain, strict=True)
    )
    print(f"{asked.models} models, {asked.epochs} epochs, {asked.threads} threads, {x.dtype}")
    print(f"  together              {taken:8.1f} s")
    print(f"  plain loop, scaled up {scaled:8.1f} s ({seconds:.1f} s for {asked.plain} of them)")
    print(f"  ratio                 {scaled / taken:8.1f}")
    print(f"  weights apart, of the largest, at most {apart:.1e}")


if __name__ == "__main__":
    main()
