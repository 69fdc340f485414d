"""`python -m benchmarks.quality.uses`: single rows left out, the worst dropped, wrong labels found (A6 to A9).

A6's LDS is `python -m benchmarks.quality --setups A6`. Needs scikit-learn and SciPy.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from benchmarks.quality.bank import optimum, row_losses, test_losses, trained
from benchmarks.quality.ours import scored
from benchmarks.quality.setups import SEED, Setup, digits_mlp, digits_regression
from workers.quality.measures import Measured, loo, mislabel_auc, recall_at

LEFT_OUT = 100
FLIPPED = 0.1


def main() -> None:
    """Prints the figures."""
    torch.set_num_threads(1)
    _left_out(digits_regression())
    _dropped(digits_regression())
    _mislabelled(digits_regression(), [1e-2])
    _mislabelled(digits_mlp(), [1e-3, 1e-2])


def _left_out(setup: Setup) -> None:
    total = len(setup.train[0])
    weights = optimum(setup, *setup.train)
    out = np.sort(np.random.default_rng(SEED).permutation(total)[:LEFT_OUT])
    kept = torch.stack([torch.from_numpy(np.delete(np.arange(total), row)) for row in out])
    losses = test_losses(setup, trained(setup, kept, [], SEED)).numpy()
    for one in scored(setup, weights, [setup.training.decay]):
        name = f"A6 leave-one-out, {one.method}"
        _told(name, one.scores, lambda scores: loo(scores.T.numpy()[out], losses))


def _dropped(setup: Setup) -> None:
    """Chosen by half of the held-out rows, judged on the other half."""
    from benchmarks.quality.setups import _digits

    x, y = _digits()
    cut = len(x) // 2
    chosen, judged = slice(cut, cut + (len(x) - cut) // 2), slice(cut + (len(x) - cut) // 2, None)
    setup = replace(setup, train=(x[:cut], y[:cut]), test=(x[chosen], y[chosen]))
    held_out = replace(setup, test=(x[judged], y[judged]))
    weights = optimum(setup, *setup.train)
    print(f"A8, all {cut} rows: {_quality(held_out, weights)}")
    exact = next(scored(setup, weights, [setup.training.decay], ["exact Hessian"])).scores
    assert exact is not None
    order = exact.mean(0).argsort()
    shuffled = torch.randperm(cut, generator=torch.Generator().manual_seed(SEED))
    for count in (9, 25, 100):  # 9 is 1 %, as 100 of 10,000 are
        for name, rows in (("worst", order[count:]), ("random", shuffled[count:])):
            again = optimum(setup, x[:cut][rows], y[:cut][rows])
            print(f"A8, without the {count} {name}: {_quality(held_out, again)}")


def _quality(setup: Setup, weights: list[Tensor]) -> str:
    module = setup.module(weights).double()
    inputs, targets = setup.test[0].double(), setup.test[1]
    with torch.no_grad():
        right = (module(inputs).argmax(1) == targets).double().mean()
    loss = row_losses(setup, [each[None] for each in weights], inputs[None], targets[None]).mean()
    return f"accuracy {float(right):.2%}, loss {float(loss):.4f} on {len(targets)} rows"


def _mislabelled(setup: Setup, dampings: list[float]) -> None:
    """A tenth of the labels is wrong; suspicious is a high self-influence."""
    draw = np.random.default_rng(SEED)
    inputs, targets = setup.train
    wrong = draw.random(len(targets)) < FLIPPED
    shifted = (targets + torch.from_numpy(draw.integers(1, 10, len(targets)))) % 10
    targets = torch.where(torch.from_numpy(wrong), shifted, targets)
    setup = replace(setup, train=(inputs, targets), test=(inputs, targets))
    if setup.training.to_the_optimum:
        weights = optimum(setup, inputs, targets)
    else:
        torch.manual_seed(SEED)
        start = [each.detach().clone() for each in setup.module().parameters()]
        whole = torch.arange(len(targets))[None]
        weights = [each[0] for each in trained(setup, whole, start, SEED)]
    for one in scored(setup, weights, dampings):
        name = f"A9 {setup.name}, {one.method}, λ {one.damping:g}"
        _told(name, one.scores, lambda scores: mislabel_auc(scores.diagonal().numpy(), wrong))
        if one.scores is not None:
            found = recall_at(one.scores.diagonal().numpy(), wrong)
            print(f"{'':<50} recall {found.value:.3f} of {found.count}")
    own = row_losses(setup, [each[None].float() for each in weights], inputs[None], targets[None])
    _told(f"A9 {setup.name}, loss", own[0].detach(), lambda each: mislabel_auc(each.numpy(), wrong))


def _told(name: str, scores: Tensor | None, measured) -> None:  # type: ignore[no-untyped-def]
    if scores is None:
        print(f"{name:<50} none")
        return
    found: Measured = measured(scores)
    assert found.value is not None
    print(f"{name:<50} {found.value:.4f} [{found.low:.4f}, {found.high:.4f}]", flush=True)


if __name__ == "__main__":
    main()
