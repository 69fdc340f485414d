"""What it costs one worker that its threads sleep while they wait for each other: `python -m benchmarks.waiting`.

Conjugate gradients on a small network with two threads, by turns in two processes: OMP_WAIT_POLICY unset, and passive.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time

import torch
from sklearn.datasets import load_digits
from torch import nn

from workers.engine import (
    ConjugateGradients,
    Hessian,
    Problem,
    TensorRows,
    make_loss,
    row_gradients,
    up,
)

WARM_UP = 3


def main() -> None:
    """Prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=40)
    parser.add_argument("--answers", action="store_true", help="be one of the two processes")
    options = parser.parse_args()
    if options.answers:
        _answers()
        return
    unset = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    contestants = [_started(unset), _started(unset | {"OMP_WAIT_POLICY": "passive"})]
    took: list[list[float]] = [[], []]
    for number in range(-WARM_UP, options.pairs):
        for which in (0, 1) if number % 2 else (1, 0):
            seconds = _asked(contestants[which])
            if number >= 0:
                took[which].append(seconds)
    for name, seconds_each in zip(("not set", "passive"), took, strict=True):
        print(f"{name}: {statistics.median(seconds_each):.3f} s, at least {min(seconds_each):.3f}")
    ratios = [passive / default for default, passive in zip(*took, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    print(
        f"passive takes {middle:.2f} times as long ({low:.2f} to {high:.2f} in half of the pairs)"
    )
    for each in contestants:
        each.communicate()


def _started(environment: dict[str, str]) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "benchmarks.waiting", "--answers"]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, text=True)


def _asked(contestant: subprocess.Popen[str]) -> float:
    assert contestant.stdin is not None
    assert contestant.stdout is not None
    contestant.stdin.write("\n")
    contestant.stdin.flush()
    return float(contestant.stdout.readline())


def _answers() -> None:
    torch.set_num_threads(2)
    torch.manual_seed(0)
    pixels, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(pixels / 16, dtype=torch.float32), torch.tensor(labels)
    network = nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10))
    train, test = TensorRows(x[:1400], y[:1400]), TensorRows(x[1400:1500], y[1400:1500])
    for _ in sys.stdin:
        began = time.perf_counter()
        problem = Problem(network.eval(), make_loss("cross_entropy"))
        rhs = torch.cat([block for _, block in row_gradients(problem, test)])
        factors = ConjugateGradients(rtol=1e-5).solve(Hessian(problem, train), 0.5, rhs).x
        for _ in up(problem, factors, train):
            pass
        print(time.perf_counter() - began, flush=True)


if __name__ == "__main__":
    main()
