"""`python -m benchmarks.quality [--setups A1 …] [--peers kronfluence …]`: LDS over λ, ours and the peers', on one bank.

The bank is trained once and kept in `benchmarks/.cache`; so are scores of peers, whose environments are made when
first asked for. Each line: the λ that is best, its LDS with a 95 % interval (bootstrap over subsets and test rows
together), and the course over λ. Needs scikit-learn and SciPy. `--json PATH` keeps all numbers.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.quality.setups import SETUPS, Setup

ROOT = Path(__file__).resolve().parents[2]
DAMPINGS = [10.0**-power for power in range(10)]


def main() -> None:
    """Prints the tables; with `--part`, is one of the peers' processes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--setups", nargs="+", default=[*SETUPS], choices=[*SETUPS])
    parser.add_argument("--peers", nargs="*", default=["kronfluence", "pydvl", "dattri"])
    parser.add_argument("--methods", nargs="+", help="of ours; by default all")
    parser.add_argument("--dampings", nargs="+", type=float, default=DAMPINGS)
    parser.add_argument("--subsets", type=int, default=100)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--part", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.part is not None:
        _part(*options.part, options.dampings)
        return
    tables = {name: _table(SETUPS[name](), options) for name in options.setups}
    if options.json is not None:
        options.json.write_text(json.dumps(tables, indent=1))


def _table(setup: Setup, options: argparse.Namespace) -> dict[str, Any]:
    from benchmarks.peers.environments import python_of
    from benchmarks.quality.bank import bank
    from benchmarks.quality.ours import scored
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
    _print(rows)
    for peer in options.peers:
        before = set(rows)
        for name, damping, scores in _of_peer(peer, python_of(peer), setup, found.weights, options):
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


def _of_peer(
    peer: str, python: Path, setup: Setup, weights: list[Tensor], options: argparse.Namespace
) -> list[tuple[str, float | None, Tensor]]:
    with tempfile.TemporaryDirectory() as folder:
        given, out = Path(folder) / "given.pt", Path(folder) / "scores.pt"
        parts = {"name": setup.name, "train": setup.train, "test": setup.test, "weights": weights}
        torch.save(parts, given)
        command = [str(python), "-m", "benchmarks.quality", "--part", peer, str(given), str(out)]
        command += ["--dampings", *map(str, options.dampings), "--threads", str(options.threads)]
        done = subprocess.run(command, cwd=ROOT, stdout=sys.stderr, check=False)
        if not out.is_file():
            print(f"{peer}: did not run, exit status {done.returncode}")
            return []
        return torch.load(out)


def _part(peer: str, given: str, out: str, dampings: list[float]) -> None:
    from benchmarks.quality.setups import by_name
    from benchmarks.quality.theirs import PEERS

    parts = torch.load(given)
    setup = by_name(parts["name"], parts["train"], parts["test"])
    kept: list[tuple[str, float | None, Tensor]] = []
    for name, damping, scores in PEERS[peer](setup, setup.module(parts["weights"]), dampings):
        kept.append((name, damping, scores.detach()))
        torch.save(kept, out)  # what is done stays, whatever comes


if __name__ == "__main__":
    main()
