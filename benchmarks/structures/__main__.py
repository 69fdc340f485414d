"""`python -m benchmarks.structures [--cases mlp cnn decoder] [--rounds 2]`: EK-FAC beside kronfluence 1.0.1.

With `--peers kronfluence dattri pydvl` beside these as well, where they run: both cover linear layers alone, and what
they invert is another matrix, so that their answers are compared by their correlation.

Each library runs each case in a process of its own, the second call is measured; float32. Labels are the
data's, so that both have the same answer; `--drawn` takes labels drawn from the predictions. On a busy machine
the processor's seconds at `--threads 1` say more than the clock's. Needs scikit-learn.
"""

from __future__ import annotations

import argparse
import importlib
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
CASES = ("mlp", "cnn", "decoder")
PEERS = ("kronfluence", "dattri", "pydvl")
LINEAR_ALONE = ("dattri", "pydvl")  # and losses that are no sum over tokens
MODULES = {"upweight": "ours", "kronfluence": "theirs", "dattri": "by_dattri", "pydvl": "by_pydvl"}
TARGETS = {"mlp": (30, 3), "cnn": (10, 2), "decoder": (5, 2)}  # times faster, part of the memory


def main() -> None:
    """Prints the table; with `--part`, is one of the processes that are measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", nargs="+", default=CASES, choices=CASES)
    parser.add_argument("--peers", nargs="+", default=PEERS[:1], choices=PEERS)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--drawn", action="store_true")
    parser.add_argument("--part", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part is not None:
        _part(*options.part, drawn=options.drawn, threads=options.threads)
        return
    from benchmarks.peers.environments import python_of
    from benchmarks.peers.problem import prepared

    digits, pythons = prepared("small"), {"upweight": Path(sys.executable)}
    pythons |= {each: python_of(each) for each in options.peers}
    for name in options.cases:
        libraries = [each for each in pythons if name == "mlp" or each not in LINEAR_ALONE]
        found: dict[str, list[dict[str, float]]] = {each: [] for each in libraries}
        answers = {}
        for number in range(options.rounds):
            for library in sorted(libraries, reverse=bool(number % 2)):
                figures, answer = _run(
                    pythons[library], library, name, digits, options.drawn, options.threads
                )
                found[library].append(figures)
                answers[library] = answer
                print(f"  {name}, {library}: {json.dumps(figures)}", file=sys.stderr, flush=True)
        _told(name, found, answers, options.drawn)


def _run(
    python: Path, library: str, name: str, digits: Path, drawn: bool, threads: int
) -> tuple[dict[str, float], np.ndarray]:  # type: ignore[type-arg]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "answer.npy"
        command = [str(python), "-m", "benchmarks.structures", "--threads", str(threads)]
        command += ["--part", library, name, str(digits), str(out)] + ["--drawn"] * drawn
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
        return json.loads(done.stdout.splitlines()[-1]), np.load(out)


def _part(library: str, name: str, digits: str, out: str, *, drawn: bool, threads: int) -> None:
    import torch

    from benchmarks.peers.memory import PeakMemory
    from benchmarks.structures.models import case

    torch.set_num_threads(threads)
    measured = importlib.import_module(f"benchmarks.structures.{MODULES[library]}").measured
    with PeakMemory() as memory:
        # Of both calls: what the first has freed need not be given back, and the second would look small.
        measured(case(name, Path(digits)), drawn)
        began = time.process_time()
        fit, scores, answer = measured(case(name, Path(digits)), drawn)
        processor = time.process_time() - began
    np.save(out, answer.detach().numpy())
    figures = {"fit": fit, "scores": scores, "processor": processor, "MiB": memory.peak / 2**20}
    print(json.dumps(figures))


def _told(
    name: str,
    found: dict[str, list[dict[str, float]]],
    answers: dict[str, np.ndarray],  # type: ignore[type-arg]
    drawn: bool,
) -> None:
    best = {
        library: min(each, key=lambda one: one["fit"] + one["scores"])
        for library, each in found.items()
    }
    totals = {library: one["fit"] + one["scores"] for library, one in best.items()}
    for library, one in best.items():
        print(
            f"{name}, {library}: fit {one['fit']:.2f} s, scores {one['scores']:.2f} s, {one['MiB']:.0f} MiB, "
            f"processor {one['processor']:.2f} s"
        )
    ours, (faster, part) = best["upweight"], TARGETS[name]
    own = answers["upweight"].astype(np.float64)
    for library in (each for each in best if each != "upweight"):
        theirs, expected = best[library], answers[library].astype(np.float64)
        difference = (
            f"; correlation of answers {np.corrcoef(own.ravel(), expected.ravel())[0, 1]:.4f}"
        )
        if library == "kronfluence" and not drawn:
            error = np.linalg.norm(own - expected) / np.linalg.norm(expected)
            difference = f"; answers differ by {error:.1e}"
        print(
            f"{name}, beside {library}: {totals[library] / totals['upweight']:.1f} times as fast (target {faster}), "
            f"{theirs['processor'] / ours['processor']:.1f} by the processor, "
            f"{ours['MiB'] / max(theirs['MiB'], 1.0):.2f} of the memory (target 1/{part}){difference}",
            flush=True,
        )


if __name__ == "__main__":
    main()
