"""`python -m benchmarks.quality [--setups A1 …] [--peers kronfluence …]`: LDS over λ, ours and the peers', on one bank.

The bank is trained once and kept in `benchmarks/.cache`; the peers' environments are made when first asked for. Each
line: the λ that is best, its LDS with a 95 % interval (bootstrap over subsets and test rows together), and the course
over λ. Needs scikit-learn and SciPy. `--json PATH` keeps all numbers.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.quality.setups import SETUPS, Setup

DAMPINGS = [10.0**-power for power in range(10)]


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--setups", nargs="+", default=[*SETUPS], choices=[*SETUPS])
    parser.add_argument("--peers", nargs="*", default=["kronfluence", "pydvl", "dattri", "traker"])
    parser.add_argument("--methods", nargs="*", help="of ours; by default all")
    parser.add_argument(
        "--ensemble", nargs="*", default=[], help="of ours, as means over several models"
    )
    parser.add_argument(
        "--seconds", type=float, default=1800.0, help="of each peer, then it is stopped"
    )
    parser.add_argument("--dampings", nargs="+", type=float, default=DAMPINGS)
    parser.add_argument("--subsets", type=int, default=100)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    tables = {name: _table(SETUPS[name](), options) for name in options.setups}
    if options.json is not None:
        options.json.write_text(json.dumps(tables, indent=1))


def _table(setup: Setup, options: argparse.Namespace) -> dict[str, Any]:
    from benchmarks.quality.bank import bank
    from benchmarks.quality.ours import mean_over, scored
    from benchmarks.quality.theirs import asked
    from workers.quality.measures import agreement, ceiling, lds

    found = bank(setup, options.subsets)
    losses = found.losses.double()
    members = torch.zeros(len(found.subsets), len(setup.train[0]), dtype=torch.float64)
    members.scatter_(1, found.subsets, 1.0)
    noise = agreement(losses.numpy())
    print(
        f"\n{setup.name}: {len(setup.train[0])} training rows, {len(setup.test[0])} test rows, "
        f"{len(found.subsets)} subsets of {found.subsets.shape[1]}, {len(losses)} seeds; bank in {found.seconds:.0f} s"
    )
    limit = ceiling(noise.value, len(losses))
    print(
        f"seeds agree at {noise.value:.3f} [{noise.low:.3f}, {noise.high:.3f}]; "
        f"no score can exceed about {limit or 0:.3f}"
    )
    rows: dict[str, dict[str, Any]] = {}

    def note(name: str, damping: float | None, scores: Tensor) -> None:
        sums = (members @ scores.double().T).numpy()
        if not np.isfinite(sums).all():
            print(f"  {name} at {damping}: NaN or infinity", file=sys.stderr)
            return
        measured = lds(sums, losses.mean(0).numpy())
        rows.setdefault(name, {})[f"{damping:g}" if damping is not None else "-"] = vars(measured)

    for one in scored(setup, found.weights, options.dampings, options.methods):
        if one.scores is None:
            print(f"  {one.method} at {one.damping:g}: {one.why[:120]}", file=sys.stderr)
        else:
            note(f"upweight {one.method}", one.damping, one.scores)
    models = [found.weights, *map(list, zip(*found.others, strict=True))]
    for one in mean_over(setup, models, options.dampings, options.ensemble):
        note(f"upweight {one.method}", one.damping, one.scores)
    _print(rows)
    for peer in options.peers:
        before = set(rows)
        for name, damping, scores in asked(
            peer, setup, models, options.dampings, threads=options.threads, seconds=options.seconds
        ):
            note(f"{peer} {name}", damping, scores)
        _print({name: rows[name] for name in rows if name not in before})
    return {"agreement": vars(noise), "ceiling": limit, "lds": rows}


def _print(rows: dict[str, dict[str, Any]]) -> None:
    for name, each in rows.items():
        defined = {at: one for at, one in each.items() if one["value"] is not None}
        if not defined:
            print(f"{name:<32} none: {next(iter(each.values()))['note']}")
            continue
        at, best = max(defined.items(), key=lambda item: item[1]["value"])
        course = " ".join(f"{at}:{one['value']:.2f}" for at, one in defined.items())
        print(
            f"{name:<32} {best['value']:.3f} [{best['low']:.3f}, {best['high']:.3f}] at {at:<6} {course}",
            flush=True,
        )


if __name__ == "__main__":
    main()
