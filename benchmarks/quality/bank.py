"""Many small networks trained at once, as one stacked network: a bank of retrainings, kept in the cache by set-up."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.peers.places import CACHE, ignored
from benchmarks.quality.setups import SEED, Setup


@dataclass(frozen=True)
class Bank:
    """`weights`: of the model on all rows; `others` (E, …): of more of them, trained in other orders.

    `losses` (repeats, S, m): of the test rows after training on each subset.
    """

    weights: list[Tensor]
    others: list[Tensor]
    subsets: Tensor  # (S, rows of a subset)
    losses: Tensor
    seconds: float


def subsets_of(total: int, count: int, share: float, seed: int = SEED) -> Tensor:
    """(count, share · total) rows without repetition, in order."""
    size = round(total * share)
    generator = torch.Generator().manual_seed(seed)
    drawn = [torch.randperm(total, generator=generator)[:size] for _ in range(count)]
    return torch.stack(drawn).sort(1).values


ENSEMBLE = 5  # models on all rows, with the first


def bank(setup: Setup, count: int = 100, share: float = 0.5, repeats: int = 2) -> Bank:
    """That of the cache, or a new one. All networks begin at the same weights; repeats differ in the order of rows."""
    path: Path = ignored(CACHE) / f"quality-{setup.name.split()[0].replace('/', '-')}-{count}.pt"
    if path.is_file():
        return Bank(**torch.load(path))
    total = len(setup.train[0])
    subsets = subsets_of(total, count, share)
    torch.manual_seed(SEED)
    start = [each.detach().clone() for each in setup.module().parameters()]
    began = time.perf_counter()
    everything = torch.arange(total)[None]
    whole = trained(setup, everything, start, SEED)
    others = trained(setup, everything.expand(ENSEMBLE - 1, total), start, SEED - 1)
    losses = torch.stack(
        [
            test_losses(setup, trained(setup, subsets, start, SEED + 1 + repeat))
            for repeat in range(repeats)
        ]
    )
    seconds = time.perf_counter() - began
    found = Bank([each[0] for each in whole], others, subsets, losses, seconds)
    torch.save(vars(found), path)
    return found


def trained(setup: Setup, subsets: Tensor, start: list[Tensor], seed: int) -> list[Tensor]:
    """Weights (S, …) after training a network on each of `subsets` (S, rows), all by the same steps."""
    if setup.training.to_the_optimum:
        found = [optimum(setup, setup.train[0][rows], setup.train[1][rows]) for rows in subsets]
        return [torch.stack(each) for each in zip(*found, strict=True)]
    count, size = subsets.shape
    weights = [each.expand(count, *each.shape).clone().requires_grad_() for each in start]
    how = setup.training
    if how.momentum is None:
        optimiser = torch.optim.AdamW(weights, lr=how.rate, weight_decay=how.decay)
    else:
        optimiser = torch.optim.SGD(
            weights, lr=how.rate, momentum=how.momentum, weight_decay=how.decay
        )
    generator = torch.Generator().manual_seed(seed)
    inputs, targets = setup.train
    for _ in range(how.epochs):
        order = subsets.gather(1, torch.rand(count, size, generator=generator).argsort(1))
        for rows in order.split(how.batch, 1):
            optimiser.zero_grad()
            losses = row_losses(setup, weights, inputs[rows], targets[rows])
            losses.mean(1).sum().backward()
            optimiser.step()
    return [each.detach() for each in weights]


def optimum(setup: Setup, inputs: Tensor, targets: Tensor) -> list[Tensor]:
    """Of the mean loss of these rows with decay / 2 ‖θ‖², from 0."""
    module = setup.module().double()
    for each in module.parameters():
        torch.nn.init.zeros_(each)
    optimiser = torch.optim.LBFGS(
        module.parameters(), max_iter=500, tolerance_grad=1e-10, tolerance_change=0.0,
        line_search_fn="strong_wolfe",
    )  # fmt: skip

    def closure() -> Tensor:
        optimiser.zero_grad()
        decay = sum((each**2).sum() for each in module.parameters())
        loss = F.cross_entropy(module(inputs.double()), targets) + setup.training.decay / 2 * decay
        loss.backward()
        return loss

    optimiser.step(closure)
    return [each.detach() for each in module.parameters()]


def test_losses(setup: Setup, weights: list[Tensor]) -> Tensor:
    """(S, m)."""
    inputs, targets = (each.expand(len(weights[0]), *each.shape) for each in setup.test)
    inputs = inputs.to(weights[0].dtype)
    with torch.no_grad():
        return row_losses(setup, weights, inputs, targets)


def row_losses(setup: Setup, weights: list[Tensor], inputs: Tensor, targets: Tensor) -> Tensor:
    """(S, B) of rows (S, B, …), a set of weights each."""
    hidden = inputs
    for number in range(0, len(weights), 2):
        if number:
            hidden = setup.forward_activation(hidden)
        hidden = torch.baddbmm(weights[number + 1].unsqueeze(1), hidden, weights[number].mT)
    if setup.loss == "cross_entropy":
        return F.cross_entropy(hidden.flatten(0, 1), targets.flatten(), reduction="none").view(
            targets.shape
        )
    return (hidden - targets).square().mean(-1)
