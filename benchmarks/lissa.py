"""What LiSSA takes, beside another build: `python -m benchmarks.lissa --against PATH`; 397 by 1,400 rows of digits.

PATH is a checkout with an environment of its own in `.venv`. Round after round each build starts a service with one
worker, and computes by `direct`, by LiSSA over all rows and by LiSSA over random batches. Seconds that the client
waits, and processor seconds of the worker, which say more on a busy machine. Needs scikit-learn, and Linux.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from statistics import median

HERE = Path(__file__).resolve().parents[1]
DAMPING = 1e-2
BATCH_ROWS = 128
TARGETS = {"lissa over all rows": "1.5 s", "lissa over batches": "ratio of 4 x"}


def main() -> None:
    """Prints the figures; with `--part`, is one of the processes that are measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--against", type=Path, help="another checkout, with a .venv of its own")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=1000, help="of random batches; 0: none")
    parser.add_argument("--part", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part is not None:
        print(json.dumps(_measured(options.part, options.steps)))
        return
    from benchmarks.peers.problem import prepared

    builds = {"this build": (HERE, sys.executable)}
    if options.against is not None:
        other = options.against.absolute()
        builds["other build"] = (other, str(other / ".venv" / "bin" / "python"))
    _compare(builds, prepared("small"), options.rounds, options.steps)


def _compare(builds: dict[str, tuple[Path, str]], model: Path, rounds: int, steps: int) -> None:
    took: dict[str, list[dict[str, float]]] = {name: [] for name in builds}
    for number in range(rounds):
        for name in sorted(builds, reverse=bool(number % 2)):
            root, python = builds[name]
            # By its path: the other build need not have this file. -P: what it imports is the other build's.
            command = [python, "-P", __file__, "--part", str(model), "--steps", str(steps)]
            done = subprocess.run(command, cwd=root, stdout=subprocess.PIPE, text=True, check=True)
            took[name].append(json.loads(done.stdout))
            print(f"round {number}, {name}: {done.stdout.strip()}", file=sys.stderr, flush=True)
    for phase in took["this build"][0]:
        for name, each in took.items():
            _told(f"{phase}, {name}", [one[phase] for one in each], "s")
        if len(builds) > 1:
            pairs = zip(took["other build"], took["this build"], strict=True)
            _told(f"{phase}, ratio", [old[phase] / new[phase] for old, new in pairs], "x")


def _told(name: str, values: Sequence[float], unit: str) -> None:
    target = TARGETS.get(name.split(",")[0], "")
    line = f"{name:<48} {median(values):>8.2f} {unit} ({min(values):.2f} to {max(values):.2f})"
    print(line + (f"   target: {target}" if target else ""), flush=True)


def _measured(model: Path, steps: int) -> dict[str, float]:
    """Seconds of each job, and of the worker's processors."""
    from benchmarks.peers.problem import load
    from service.local.background import running
    from upweight import Client
    from upweight.schema import Lissa

    trained, found = load("small", model), {}
    methods = {"direct": "direct", "lissa over all rows": Lissa(scale="auto")}
    if steps:
        batches = Lissa(scale="auto", batch_size=BATCH_ROWS, maxiter=steps)
        methods["lissa over batches"] = batches
    with (
        tempfile.TemporaryDirectory() as folder,
        running(Path(folder)) as service,
        Client(service.url) as client,
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")  # LiSSA is cut where it has not settled
        record = client.models.register(
            "digits", trained.model, loss="cross_entropy", example=trained.train.inputs[:4]
        )
        train, test = (
            client.datasets.register(name, x=rows.inputs.numpy(), y=rows.targets.numpy())
            for name, rows in (("train", trained.train), ("test", trained.test))
        )
        for name, method in methods.items():
            wall, processor = time.perf_counter(), _processor_seconds(service.pid("worker-1"))
            client.compute_influences(
                record,
                train,
                test,
                inversion_method=method,
                hessian_regularization=DAMPING,
                progress=False,
            )
            found[name] = time.perf_counter() - wall
            found[f"{name}, processor"] = _processor_seconds(service.pid("worker-1")) - processor
    return found


def _processor_seconds(pid: int) -> float:
    """Of a process and all its threads so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
