"""`python -m benchmarks.structures [--cases mlp cnn decoder] [--rounds 2]`: EK-FAC beside kronfluence 1.0.1.

Each library runs each case in a process of its own, the second call is measured; float32. Labels are the
data's, so that both have the same answer; `--drawn` takes labels drawn from the predictions. On a busy machine
the processor's seconds at `--threads 1` say more than the clock's. Needs scikit-learn.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
CASES = ("mlp", "cnn", "decoder")
TARGETS = {"mlp": (30, 3), "cnn": (10, 2), "decoder": (5, 2)}  # times faster, part of the memory


def main() -> None:
    """Prints the table; with `--part`, is one of the processes that are measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", nargs="+", default=CASES, choices=CASES)
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
    pythons["kronfluence"] = python_of("kronfluence")
    for name in options.cases:
        found: dict[str, list[dict[str, float]]] = {each: [] for each in pythons}
        answers = {}
        for number in range(options.rounds):
            for library in sorted(pythons, reverse=bool(number % 2)):
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
    if library == "upweight":
        from benchmarks.structures.ours import measured
    else:
        from benchmarks.structures.theirs import measured
    measured(case(name, Path(digits)), drawn)
    with PeakMemory() as memory:
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
    ours, theirs = best["upweight"], best["kronfluence"]
    for library, one in best.items():
        print(
            f"{name}, {library}: fit {one['fit']:.2f} s, scores {one['scores']:.2f} s, {one['MiB']:.0f} MiB"
        )
    faster, part = TARGETS[name]
    difference = ""
    if not drawn:
        expected = answers["kronfluence"].astype(np.float64)
        error = np.linalg.norm(answers["upweight"] - expected) / np.linalg.norm(expected)
        difference = f"; answers differ by {error:.1e}"
    print(
        f"{name}: {totals['kronfluence'] / totals['upweight']:.1f} times as fast (target {faster}), "
        f"{ours['MiB'] / theirs['MiB']:.2f} of the memory (target 1/{part}){difference}",
        flush=True,
    )


if __name__ == "__main__":
    main()
