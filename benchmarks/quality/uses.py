"""`python -m benchmarks.quality.uses`: single rows left out, the worst dropped, wrong labels found (A6 to A9), ours
beside the peers'.

A6's LDS is `python -m benchmarks.quality --setups A6`. Needs scikit-learn and SciPy.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from benchmarks.quality.bank import optimum, row_losses, test_losses, trained
from benchmarks.quality.ours import scored
from benchmarks.quality.setups import SEED, Setup, digits_mlp, digits_regression
from benchmarks.quality.theirs import asked
from workers.quality.measures import Measured, loo, mislabel_auc, recall_at

LEFT_OUT = 100
FLIPPED = 0.1
SPLITS = 20  # of A8
WORST = 0.01  # of the rows, as 100 of 10,000 are
Found = Iterator[tuple[str, float | None, Tensor | None]]


def main() -> None:
    """Prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peers", nargs="*", default=["kronfluence", "pydvl", "dattri"])
    parser.add_argument("--parts", nargs="+", default=["A6", "A8", "A9"])
    parser.add_argument(
        "--seconds", type=float, default=900.0, help="of each peer, then it is stopped"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    if "A6" in options.parts:
        _left_out(digits_regression(), options)
    if "A8" in options.parts:
        for flipped in (0.0, FLIPPED):
            _dropped(digits_regression(), flipped)
    if "A9" in options.parts:
        _mislabelled(digits_regression(), [1e-2], options)
        _mislabelled(digits_mlp(), [1e-3, 1e-2], options)


def _all_scores(
    setup: Setup, weights: list[Tensor], dampings: list[float], options: argparse.Namespace
) -> Found:
    for one in scored(setup, weights, dampings):
        yield f"upweight {one.method}", one.damping, one.scores
    for peer in options.peers:
        models = [[each.float() for each in weights]]
        for name, damping, scores in asked(
            peer, setup, models, dampings, threads=1, seconds=options.seconds
        ):
            yield f"{peer} {name}", damping, scores


def _left_out(setup: Setup, options: argparse.Namespace) -> None:
    total = len(setup.train[0])
    weights = optimum(setup, *setup.train)
    out = np.sort(np.random.default_rng(SEED).permutation(total)[:LEFT_OUT])
    kept = torch.stack([torch.from_numpy(np.delete(np.arange(total), row)) for row in out])
    losses = test_losses(setup, trained(setup, kept, [], SEED)).numpy()
    for name, _, scores in _all_scores(setup, weights, [setup.training.decay], options):
        _told(f"A6 leave-one-out, {name}", scores, lambda each: loo(each.T.numpy()[out], losses))


def _dropped(setup: Setup, flipped: float) -> None:
    """Over random splits into halves and quarters: trained on a half, chosen by the loss of a quarter."""
    from benchmarks.quality.setups import _digits

    x, y = _digits()
    cut, middle = len(x) // 2, len(x) * 3 // 4
    count = round(WORST * cut)
    gains: dict[str, list[tuple[float, float]]] = {}
    levels = []
    for split in range(SPLITS):
        draw = np.random.default_rng([SEED, split])
        order = torch.from_numpy(draw.permutation(len(x)))
        inputs, targets = x[order[:cut]], y[order[:cut]].clone()
        wrong = torch.from_numpy(draw.random(cut) < flipped)
        targets[wrong] = (
            targets[wrong] + torch.from_numpy(draw.integers(1, 10, int(wrong.sum())))
        ) % 10
        choosing, other = (order[cut:middle], order[middle:])
        here = replace(setup, train=(inputs, targets), test=(x[choosing], y[choosing]))
        weights = optimum(here, inputs, targets)
        exact = next(scored(here, weights, [setup.training.decay], ["exact Hessian"])).scores
        assert exact is not None
        ways = {"worst": exact.mean(0).argsort(), "random": torch.from_numpy(draw.permutation(cut))}
        judged = {
            "on the rows that chose": here,
            "on other rows": replace(here, test=(x[other], y[other])),
        }
        levels.append(_quality(judged["on other rows"], weights))
        for way, ranked in ways.items():
            rest = ranked[count:]
            again = optimum(here, inputs[rest], targets[rest])
            for on, rows in judged.items():
                before, after = _quality(rows, weights), _quality(rows, again)
                gain = (after[0] - before[0], after[1] - before[1])
                gains.setdefault(f"without the {count} {way}, {on}", []).append(gain)
    accuracy, loss = np.mean(levels, 0)
    print(
        f"A8, {flipped:.0%} of labels wrong, {SPLITS} splits: accuracy {accuracy:.2%}, loss {loss:.4f}"
    )
    for name, each in gains.items():
        means, errors = np.mean(each, 0), stats.sem(each)
        reach = stats.t.ppf(0.975, SPLITS - 1) * errors
        print(
            f"  {name:<46} accuracy {means[0] * 100:+.2f} ± {reach[0] * 100:.2f} points, "
            f"loss {means[1]:+.4f} ± {reach[1]:.4f}",
            flush=True,
        )


def _quality(setup: Setup, weights: list[Tensor]) -> tuple[float, float]:
    """Accuracy and mean loss of the test rows."""
    module = setup.module(weights).double()
    inputs, targets = setup.test[0].double(), setup.test[1]
    with torch.no_grad():
        right = (module(inputs).argmax(1) == targets).double().mean()
    loss = row_losses(setup, [each[None] for each in weights], inputs[None], targets[None]).mean()
    return float(right), float(loss)


def _mislabelled(setup: Setup, dampings: list[float], options: argparse.Namespace) -> None:
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
    for name, damping, scores in _all_scores(setup, weights, dampings, options):
        at = f", λ {damping:g}" if damping is not None else ""
        _told(
            f"A9 {setup.name}, {name}{at}",
            scores,
            lambda each: mislabel_auc(each.diagonal().numpy(), wrong),
        )
        if scores is not None and bool(scores.isfinite().all()):
            found = recall_at(scores.diagonal().numpy(), wrong)
            print(f"{'':<60} recall {found.value:.3f} of {found.count}")
    own = row_losses(setup, [each[None].float() for each in weights], inputs[None], targets[None])
    _told(f"A9 {setup.name}, loss", own[0].detach(), lambda each: mislabel_auc(each.numpy(), wrong))


def _told(name: str, scores: Tensor | None, measured: Callable[[Tensor], Measured]) -> None:
    if scores is None or not bool(scores.isfinite().all()):
        print(f"{name:<60} none")
        return
    found = measured(scores.double())
    assert found.value is not None
    print(f"{name:<60} {found.value:.4f} [{found.low:.4f}, {found.high:.4f}]", flush=True)


if __name__ == "__main__":
    main()
