"""What a list of eight λ's takes beside one of them: `python -m benchmarks.dampings`; 20 by 1,400 rows of digits.

Both are jobs of one service with one worker, in turns, and neither uses what the other has found out: each makes its
own fit. Seconds that the engine takes, and how often it has passed over the training rows with their gradients. The one
λ is the smallest that the list has. Of the decoder it is the engine's seconds alone. Needs scikit-learn.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.peers.problem import load, prepared

DAMPINGS = [0.05 * 2.0**power for power in range(8)]
TARGET = 1.3
METHODS: Mapping[str, Mapping[str, Any]] = {
    "direct": {},
    "ekfac": {},
    "arnoldi": {"rank_estimate": 50},
    "nystroem": {"rank": 200},
    "cg": {"rtol": 1e-5},
    "lissa": {},
}


def main() -> None:
    """Prints a line a method."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--model", default="small", choices=("small", "wide", "convolutional", "decoder")
    )
    parser.add_argument("--method", action="append", choices=METHODS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tests", type=int, default=20, help="test rows")
    options = parser.parse_args()
    if options.model == "decoder":
        _in_the_engine(options.rounds)
        return
    _compare(options.model, options.method or list(METHODS), options.rounds, options.tests)


def _compare(name: str, methods: list[str], rounds: int, tests: int) -> None:
    from service.local.background import running
    from upweight import Client

    trained = load(name, prepared(name))
    with (
        tempfile.TemporaryDirectory() as folder,
        running(Path(folder)) as service,
        Client(service.url, progress=False) as client,
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")  # large λ's are told to decide alone
        model = client.models.register(
            "digits", trained.model, loss="cross_entropy", example=trained.train.inputs[:4]
        )
        train, test = (
            client.datasets.register(each, x=rows.inputs.numpy(), y=rows.targets.numpy())
            for each, rows in (("train", trained.train), ("test", trained.test))
        )

        def seconds(method: str, damping: Any) -> tuple[float, float, float]:
            result = client.compute_influences(
                model, train, test, inversion_method=method, hessian_regularization=damping,
                reuse=False, test_rows=f"0:{tests}", **METHODS[method],
            )  # fmt: skip
            cost = result.job.cost
            assert cost is not None
            return cost.engine_seconds, cost.gradient_passes, cost.hessian_passes

        for method in methods:
            seconds(method, DAMPINGS[-1])  # warm
            pairs = [
                (seconds(method, DAMPINGS[0]), seconds(method, DAMPINGS)) for _ in range(rounds)
            ]
            one, several = (median(pair[at][0] for pair in pairs) for at in (0, 1))
            ratios = [pair[1][0] / pair[0][0] for pair in pairs]
            (_, _, of_one), (_, gradients, of_several) = pairs[0]
            print(
                f"{method:<10} one λ {one:7.2f} s, {len(DAMPINGS)} λ's {several:7.2f} s: ratio {median(ratios):5.2f} "
                f"({min(ratios):.2f} to {max(ratios):.2f}; target {TARGET}); passes with gradients {gradients:g}, "
                f"with H {of_one:g} and {of_several:g}",
                flush=True,
            )


def _in_the_engine(rounds: int) -> None:
    """EK-FAC of the decoder of `benchmarks.structures`, 20 by 600 rows: a fit, and the scores of all λ's."""
    import torch

    from benchmarks.structures.models import case
    from workers import engine
    from workers.engine.inversion.direct import in_closed_form

    subject = case("decoder", Path())
    loss = engine.make_loss("cross_entropy", reduction="sum", class_axis=-1)
    problem = engine.Problem(subject.module, loss, subject.names)
    train, test = (engine.TensorRows(*rows) for rows in (subject.train, subject.test))

    def seconds(dampings: list[float]) -> tuple[float, float]:
        began = time.perf_counter()
        form = engine.make_curvature(engine.Over(problem, train), "fisher", "ekfac").closed_form()
        assert form is not None
        fitted = time.perf_counter()
        rhs = torch.cat([block for _, block in engine.row_gradients(problem, test)])
        solutions = in_closed_form([form.damped(each) for each in dampings], rhs)
        for _ in engine.up(problem, torch.cat([each.x for each in solutions]), train):
            pass
        return fitted - began, time.perf_counter() - fitted

    seconds(DAMPINGS[:1])  # warm
    for number in range(rounds):
        (fit, one), (again, several) = seconds(DAMPINGS[:1]), seconds(DAMPINGS)
        ratio = (again + several) / (fit + one)
        print(
            f"round {number}: one λ {fit:.2f} + {one:.2f} s, {len(DAMPINGS)} λ's {again:.2f} + {several:.2f} s: "
            f"ratio {ratio:.2f} (target {TARGET}), scores alone {several / one:.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
