"""The engine beside another build on the peers' cases: `python -m benchmarks.builds --against PATH`.

PATH is a checkout with an environment of its own in `.venv`. Round after round each build runs each case in a process
of its own, and the median of its warm calls is taken. The ratio is the other build's time by this one's, round by
round: above 1 this build is faster. Calls take the same test rows on both sides.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

from benchmarks.peers.answers import reference
from benchmarks.peers.cases import CASES, Case
from benchmarks.peers.problem import prepared
from benchmarks.peers.spec import Spec

HERE = Path(__file__).resolve().parents[1]
SECONDS = 300.0  # a process
GIB = 17.0


def main() -> None:
    """Prints a line for each case and contestant."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.builds", description=__doc__)
    parser.add_argument("--against", type=Path, required=True, help="another checkout")
    parser.add_argument("--case", action="append", choices=sorted(CASES), help="again for more")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    other = options.against.absolute()
    builds = {
        "other": (other, str(other / ".venv" / "bin" / "python")),
        "this": (HERE, sys.executable),
    }
    for name in options.case or CASES:
        for position, contestant in enumerate(CASES[name].contestants):
            if contestant.library == "upweight":
                _compare(CASES[name], position, builds, options.rounds, options.threads)


def _compare(
    case: Case, position: int, builds: dict[str, tuple[Path, str]], rounds: int, threads: int
) -> None:
    scale = reference(case).scale if case.method == "lissa" else 0.0
    problem = prepared(case.model)
    spec = Spec(case.name, position, problem, scale, threads, GIB, SECONDS)
    took: dict[str, list[float]] = {name: [] for name in builds}
    for number in range(rounds):
        for name in sorted(builds, reverse=bool(number % 2)):
            seconds = _seconds(*builds[name], spec)
            took[name].append(median(seconds[1:] or seconds))
    ratios = [old / new for old, new in zip(took["other"], took["this"], strict=True)]
    print(
        f"{case.name:<24} {case.contestants[position].label:<20} this {median(took['this']):.3f} s, "
        f"other {median(took['other']):.3f} s, ratio {median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
        flush=True,
    )


def _seconds(root: Path, python: str, spec: Spec) -> list[float]:
    """Of each call, by that build."""
    with tempfile.TemporaryDirectory() as folder:
        told, out = Path(folder) / "spec.json", Path(folder) / "out"
        spec.write(told)
        command = [python, "-m", "benchmarks.peers.worker", str(told), str(out)]
        subprocess.run(command, cwd=root, capture_output=True, check=True, timeout=2 * SECONDS)
        found: list[float] = json.loads(out.with_suffix(".json").read_text())["seconds"]
        return found


if __name__ == "__main__":
    main()
