"""`python -m benchmarks.peers.growth`: how time and memory grow with n, m and p, doubled thrice.

Ours alone, on a perceptron 64-width-10 with random weights and rows drawn with a seed, so that any
number of rows and parameters is at hand. Each size is a process of its own; time is the median of
its warm calls. The last column is the growth at a doubling: 2 is linear, 1 flat.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median

import torch
from torch import nn

from benchmarks.peers.memory import PeakMemory
from benchmarks.peers.models import CLASSES, SIDE, perceptron
from benchmarks.peers.places import ROOT

DOUBLINGS = 3
CALLS = 3
# With random weights and classes H has eigenvalues down to about −0.25 at the smallest width.
DAMPING = 0.5
LISSA_STEPS = 20
ARNOLDI_RANK = 20


@dataclass(frozen=True)
class Size:
    """n training rows, m test rows, hidden units, torch threads."""

    n: int = 1000
    m: int = 32
    width: int = 32
    threads: int = 2

    @property
    def parameters(self) -> int:
        """p."""
        return (SIDE**2 + 1) * self.width + (self.width + 1) * CLASSES

    def doubled(self, what: str, times: int) -> Size:
        """2 to the `times` as many of these."""
        return replace(self, **{what: getattr(self, what) * 2**times})


def measure(method: str, size: Size) -> dict[str, float]:
    """In this process: seconds a call, bytes, Hessian products."""
    from workers.engine import (
        Arnoldi,
        ConjugateGradients,
        Direct,
        Hessian,
        Lissa,
        Problem,
        TensorRows,
        make_loss,
        row_gradients,
        up,
    )

    torch.set_num_threads(size.threads)
    torch.manual_seed(0)
    model = perceptron(SIDE**2, size.width, CLASSES, activation=nn.Tanh).eval()
    train = TensorRows(torch.rand(size.n, SIDE**2), torch.randint(CLASSES, (size.n,)))
    test = TensorRows(torch.rand(size.m, SIDE**2), torch.randint(CLASSES, (size.m,)))
    ways = {
        "direct": Direct(),
        "cg": ConjugateGradients(rtol=1e-5, atol=1e-30),
        "lissa": Lissa(maxiter=LISSA_STEPS, scale="auto", rtol=1e-30),
        "arnoldi": Arnoldi(rank_estimate=ARNOLDI_RANK, tol=1e-4),
    }
    seconds = []
    with PeakMemory() as memory:
        for _ in range(CALLS):
            begun = time.perf_counter()
            problem = Problem(model, make_loss("cross_entropy"))
            hessian = Hessian(problem, train)
            rhs = torch.cat([block for _, block in row_gradients(problem, test)])
            solution = ways[method].solve(hessian, DAMPING, rhs)
            for _ in up(problem, solution.x, train):
                pass
            seconds.append(time.perf_counter() - begun)
    return {
        "seconds": median(seconds[1:]),
        "bytes": memory.peak,
        "products": hessian.products,
    }


def _in_process(method: str, size: Size) -> dict[str, float]:
    told = json.dumps(asdict(size))
    command = [sys.executable, "-m", "benchmarks.peers.growth", "--measure", method, told]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


def _table(method: str, what: str, size: Size) -> list[dict[str, object]]:
    name = {"n": "n", "m": "m", "width": "p"}[what]
    print(f"\n{method}, {name} doubling (n = {size.n}, m = {size.m}, p = {size.parameters})")
    print(f"{name:>8} {'seconds':>9} {'MiB':>7} {'products':>9} {'time grows':>11}")
    kept: list[dict[str, object]] = []
    before = None
    for times in range(DOUBLINGS + 1):
        now = size.doubled(what, times)
        found = _in_process(method, now)
        value = now.parameters if what == "width" else getattr(now, what)
        growth = f"{found['seconds'] / before:.2f} ×" if before else ""
        mebibytes = found["bytes"] / 2**20
        print(
            f"{value:8} {found['seconds']:9.3f} {mebibytes:7.0f} {found['products']:9.0f} "
            f"{growth:>11}",
            flush=True,
        )
        before = found["seconds"]
        kept.append({"method": method, "size": asdict(now), **found})
    return kept


def main() -> None:
    """The tables of the methods and sizes asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers.growth", description=__doc__)
    methods = ["direct", "cg", "lissa", "arnoldi"]
    parser.add_argument("--method", action="append", choices=methods, help="again for more")
    parser.add_argument("--threads", type=int, default=2, help="of torch")
    parser.add_argument("--json", type=Path, help="a file for the values")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        method, told = arguments.measure
        print(json.dumps(measure(method, Size(**json.loads(told)))))
        return
    kept = []
    for method in arguments.method or methods:
        for what in ("n", "m", "width"):
            kept += _table(method, what, Size(threads=arguments.threads))
    if arguments.json:
        arguments.json.write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()
