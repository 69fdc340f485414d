"""`python -m benchmarks.large [--cases resnet cg gpt2 table] [--threads 2]`: networks of 11 and 124 million parameters.

`resnet`: EK-FAC of a ResNet-18, 512 rows of 3 × 32 × 32 and 8 queries, fit and scores, beside kronfluence 1.0.1.
`cg`: five iterations on its Gauss-Newton matrix with EK-FAC, in passes over the rows. `gpt2`: EK-FAC of a network of
GPT-2 small's size without the vocabulary's factor, 64 sequences of 64 tokens and 4 queries, beside its passes forward
and back alone. `table`: scores of a million rows of 30 features with a logistic regression, beside a loop by hand.
Each side runs in a process of its own and computes once, float32; weights are drawn. `processor`: seconds of all
threads for the whole part, its data included, to be compared where the machine is busy.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.peers.memory import PeakMemory
from benchmarks.structures.models import ResNet18

ROOT = Path(__file__).resolve().parents[1]
BUDGET = 1 << 29  # bytes of blocks beside model and factors
FACTORS = (
    3 << 29
)  # bytes, of Kronecker factors and the blocks that make them: what is kept of all layers must fit
ROWS, QUERIES, DAMPING = 512, 8, 1e-2
SEQUENCES, TOKENS, ASKED, VOCABULARY = 64, 64, 4, 50_257
ITERATIONS = 5
TABLE_ROWS, FEATURES, TABLE_QUERIES = 1_000_000, 30, 100

Figures = dict[str, Any]


def main() -> None:
    """Prints the figures; with `--part`, is one of the processes that are measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--part", choices=list(PARTS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part is not None:
        torch.set_num_threads(options.threads)
        torch.manual_seed(0)
        began = time.process_time()
        found = PARTS[options.part]()
        print(json.dumps({**found, "processor": time.process_time() - began}))
        return
    for case in options.cases:
        found = {}
        for part in CASES[case]:
            found[part] = _run(part, options.threads)
            print(f"{part}: {json.dumps(found[part])}", flush=True)
        print(TOLD[case](*found.values()), flush=True)


def _run(part: str, threads: int) -> Figures:
    python = sys.executable
    if part == "resnet-kronfluence":
        from benchmarks.peers.environments import python_of

        python = str(python_of("kronfluence"))
    command = [python, "-m", "benchmarks.large", "--threads", str(threads), "--part", part]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def _images() -> tuple[nn.Module, tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    model = ResNet18().eval()
    x, y = torch.randn(ROWS + QUERIES, 3, 32, 32), torch.randint(0, 10, (ROWS + QUERIES,))
    return model, (x[:ROWS], y[:ROWS]), (x[ROWS:], y[ROWS:])


def resnet_upweight() -> Figures:
    """The same parameters as kronfluence: of convolutions and linear layers."""
    from benchmarks.structures import models, ours

    model, train, test = _images()
    case = models.Case("resnet", model, train, test, DAMPING, 64)
    with PeakMemory() as memory:
        fit, scores, _ = ours.measured(case, False, FACTORS)
    return {"fit": fit, "scores": scores, "MiB": memory.peak / 2**20}


def resnet_kronfluence() -> Figures:
    """By its own analyser."""
    from benchmarks.structures import models, theirs

    model, train, test = _images()
    case = models.Case("resnet", model, train, test, DAMPING, 64)
    with PeakMemory() as memory:
        fit, scores, _ = theirs.measured(case, False)
    return {"fit": fit, "scores": scores, "MiB": memory.peak / 2**20}


def resnet_cg() -> Figures:
    """Five iterations for all queries at once."""
    from workers import engine
    from workers.engine.inversion.cg import (
        FINEST,
    )  # a finer one is refined by iterations of its own
    from workers.engine.inversion.structured import Structured

    model, train, test = _images()
    problem = engine.Problem(model, engine.make_loss("cross_entropy"))
    rows, queries = engine.TensorRows(*train), engine.TensorRows(*test)
    weights = 4 * problem.size
    with PeakMemory() as memory:
        began, at_first = time.perf_counter(), time.process_time()
        fitted_on, curvature = (
            engine.make_curvature(engine.Over(problem, rows, budget_bytes=budget), "gauss_newton")
            for budget in (FACTORS, BUDGET)
        )
        method = engine.ConjugateGradients(
            preconditioner=Structured("ekfac"), maxiter=ITERATIONS, rtol=FINEST, unsolved="keep"
        )
        fit = method.fit(fitted_on, DAMPING)
        fitted, busy = time.perf_counter() - began, time.process_time()
        rhs = torch.cat(
            [block for _, block in engine.row_gradients(problem, queries, budget_bytes=BUDGET)]
        )
        solution = method.solve(curvature, DAMPING, rhs, fit=fit)
        seconds, solved = time.perf_counter() - began, time.process_time()
    one_pass = _passes(problem, train, 32)
    return {
        "parameters": problem.size,
        "fit": fitted,
        "seconds": seconds,
        "passes": float(curvature.passes),
        "products": float(curvature.products),
        "iterations": solution.arrays["iterations"].tolist(),
        "MiB": memory.peak / 2**20,
        "MiB of weights": weights / 2**20,
        "product": engine.derivatives_used(problem, next(iter(rows.batches(2)))),
        "one pass forward and back": one_pass,
        "processor of the fit": busy - at_first,
        "processor of the solution": solved - busy,
        "processor of a pass": time.process_time() - solved,
    }


def _passes(problem: Any, rows: tuple[Tensor, Tensor], size: int) -> float:
    """Seconds of all rows forward and back, the mean loss alone."""
    from workers.engine import Batch

    began = time.perf_counter()
    for first in range(0, len(rows[0]), size):
        batch = problem.placed(
            Batch((rows[0][first : first + size],), rows[1][first : first + size], first)
        )
        theta = problem.theta.clone().requires_grad_()
        torch.autograd.grad(problem.losses(theta, batch).sum(), theta)
    return time.perf_counter() - began


class Stages:
    """A progress that adds up the processor's seconds of each stage: to a report belong those before it."""

    def __init__(self) -> None:
        self.processor: dict[str, float] = {}
        self._seen = time.process_time()

    def __call__(self, stage: str, done: int, total: int, unit: str) -> None:
        """As `engine.Progress`."""
        now = time.process_time()
        self.processor[stage] = self.processor.get(stage, 0.0) + now - self._seen
        self._seen = now


class Logits(nn.Module):
    """What the loss takes of a model of transformers."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, T) to (B, T, vocabulary)."""
        return self.model(tokens).logits


def gpt2() -> Figures:
    """GPT-2 small's sizes; the factors are of the blocks' linear layers."""
    from transformers import GPT2Config, GPT2LMHeadModel

    from workers import engine

    config = GPT2Config(n_positions=TOKENS, attn_implementation="eager", use_cache=False)
    module = Logits(GPT2LMHeadModel(config)).eval()
    every = dict(module.named_parameters())
    names = [name for name, each in every.items() if ".h." in name and ".ln_" not in name]
    tokens = torch.randint(0, VOCABULARY, (SEQUENCES + ASKED, TOKENS + 1))
    x, y = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
    loss = engine.make_loss("cross_entropy", class_axis=-1)
    problem = engine.Problem(module, loss, names)
    del module
    alone = [_passes(problem, (x[:SEQUENCES], y[:SEQUENCES]), 8) for _ in range(2)][-1]
    train = engine.TensorRows(x[:SEQUENCES], y[:SEQUENCES])
    queries = engine.TensorRows(x[SEQUENCES:], y[SEQUENCES:])
    stages = Stages()
    with PeakMemory() as memory:
        began = time.perf_counter()
        over = engine.Over(problem, train, budget_bytes=4 * FACTORS, progress=stages)
        form = engine.make_curvature(over, "empirical_fisher", "ekfac").closed_form()
        assert form is not None
        fitted = time.perf_counter()
        inverse = form.damped(DAMPING)
        rhs = torch.cat(
            [block for _, block in engine.row_gradients(problem, queries, budget_bytes=BUDGET)]
        )
        factors = inverse.apply(rhs)
        for _ in engine.up(problem, factors, train, budget_bytes=BUDGET):
            pass
        ended = time.perf_counter()
    stages("scores", 1, 1, "rows")
    return {
        "processor of each stage": stages.processor,
        "parameters": sum(each.numel() for each in every.values()), "selected": problem.size,
        "fit": fitted - began, "scores": ended - fitted, "one pass forward and back": alone,
        "MiB": memory.peak / 2**20, "MiB of weights": 4 * sum(e.numel() for e in every.values()) / 2**20,
    }  # fmt: skip


def _table() -> tuple[nn.Module, Tensor, Tensor]:
    x = torch.randn(TABLE_ROWS, FEATURES)
    y = (x[:, 0] + torch.randn(TABLE_ROWS) > 0).long()
    return nn.Linear(FEATURES, 2).eval(), x, y


def table_upweight() -> Figures:
    """`direct` on the Hessian over all rows, means and rankings left out."""
    from workers import engine

    module, x, y = _table()
    problem = engine.Problem(module, engine.make_loss("cross_entropy"))
    train = engine.TensorRows(x, y)
    queries = engine.TensorRows(x[:TABLE_QUERIES], y[:TABLE_QUERIES])
    began = time.perf_counter()
    hessian = engine.Hessian(problem, train, budget_bytes=BUDGET)
    method = engine.Direct()
    fit = method.fit(hessian, DAMPING)
    rhs = torch.cat([block for _, block in engine.row_gradients(problem, queries)])
    factors = method.solve(hessian, DAMPING, rhs, fit=fit).x
    total = torch.zeros(TABLE_QUERIES)
    for _, block in engine.up(problem, factors, train, budget_bytes=BUDGET):
        total += block.sum(1)
    return {"seconds": time.perf_counter() - began, "sum": float(total.double().sum())}


def table_by_hand() -> Figures:
    """The same with the closed form of a softmax regression, in blocks of 16,384 rows."""
    module, x, y = _table()
    weight, bias = module.weight.detach(), module.bias.detach()  # type: ignore[union-attr, operator]
    began = time.perf_counter()

    def gradients(rows: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        chance = F.linear(rows, weight, bias).softmax(1)
        left = chance - F.one_hot(labels, 2)
        with_one = torch.cat([rows, torch.ones(len(rows), 1)], 1)
        return chance, (left[:, :, None] * with_one[:, None]).flatten(1)

    size, width = 1 << 14, FEATURES + 1
    hessian = torch.zeros(2, width, 2, width)
    for first in range(0, TABLE_ROWS, size):
        rows = x[first : first + size]
        chance = F.linear(rows, weight, bias).softmax(1)
        with_one = torch.cat([rows, torch.ones(len(rows), 1)], 1)
        for i in range(2):
            for j in range(2):
                bend = chance[:, i] * (float(i == j) - chance[:, j])
                hessian[i, :, j] += (with_one * bend[:, None]).T @ with_one
    matrix = hessian.reshape(2 * width, -1) / TABLE_ROWS + DAMPING * torch.eye(2 * width)
    factors = torch.linalg.solve(matrix, gradients(x[:TABLE_QUERIES], y[:TABLE_QUERIES])[1].T).T
    total = torch.zeros(TABLE_QUERIES)
    for first in range(0, TABLE_ROWS, size):
        here = gradients(x[first : first + size], y[first : first + size])[1]
        total += (factors @ here.T).sum(1)
    return {"seconds": time.perf_counter() - began, "sum": float(total.double().sum())}


def _told_resnet(ours: Figures, theirs: Figures) -> str:
    faster = (theirs["fit"] + theirs["scores"]) / (ours["fit"] + ours["scores"])
    return (
        f"resnet: {faster:.1f} times as fast (target 2), {ours['MiB'] / theirs['MiB']:.2f} of the memory "
        "(target 1/2)"
    )


def _told_cg(ours: Figures) -> str:
    above = (ours["MiB"] - ours["MiB of weights"]) / 1024
    spent = ours["processor of the fit"] + ours["processor of the solution"]
    return (
        f"cg: {ours['products']:.0f} products in {ours['passes']:.0f} passes, {ours['seconds']:.0f} s; as many "
        f"processor seconds as {spent / ours['processor of a pass']:.0f} passes forward and back (target 40); "
        f"peak weights + {above:.1f} GiB (target 3)"
    )


def _told_gpt2(ours: Figures) -> str:
    # Covariances, Λ and scores each take all rows forward and back.
    ratio = (ours["fit"] + ours["scores"]) / (3 * ours["one pass forward and back"])
    peak = (ours["MiB"] + ours["MiB of weights"]) / 1024
    return f"gpt2: {ratio:.1f} times its three passes alone (target 1.5), {peak:.1f} GiB (target 8)"


def _told_table(ours: Figures, by_hand: Figures) -> str:
    busy = ours["processor"] / by_hand["processor"]
    return (
        f"table: {ours['seconds'] / by_hand['seconds']:.2f} times a loop by hand (target 1.3), "
        f"{busy:.2f} times by processor seconds"
    )


PARTS: dict[str, Callable[[], Figures]] = {
    "resnet-upweight": resnet_upweight,
    "resnet-kronfluence": resnet_kronfluence,
    "resnet-cg": resnet_cg,
    "gpt2": gpt2,
    "table-upweight": table_upweight,
    "table-by-hand": table_by_hand,
}
CASES = {
    "resnet": ("resnet-upweight", "resnet-kronfluence"),
    "cg": ("resnet-cg",),
    "gpt2": ("gpt2",),
    "table": ("table-upweight", "table-by-hand"),
}
TOLD: dict[str, Callable[..., str]] = {
    "resnet": _told_resnet,
    "cg": _told_cg,
    "gpt2": _told_gpt2,
    "table": _told_table,
}

if __name__ == "__main__":
    main()
