"""How long it takes to register a model, beside another build: `python -m benchmarks.registration --against PATH`.

PATH is a checkout with an environment of its own in `.venv`. Each build runs a service with one worker; round after
round a new process of each registers a small network, another one, the same again, and its bytes again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median

HERE = Path(__file__).resolve().parents[1]
REST_SECONDS = 20.0  # for a worker to prepare what it prepares
TARGETS = {"first": "3 x", "second": "5 x", "same bytes again": "below 0.2 s"}


def main() -> None:
    """Prints the figures; with `--part`, is one of the processes that are measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--against", type=Path, help="another checkout, with a .venv of its own")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--part", choices=("service", "whole", "phases"), help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part == "service":
        _serve()
    elif options.part is not None:
        print(json.dumps((_whole if options.part == "whole" else _phases)(options.url)))
    else:
        _compare(options.against, options.rounds)


def _compare(against: Path | None, rounds: int) -> None:
    builds = {"this build": (HERE, sys.executable)}
    if against is not None:
        other = against.absolute()
        builds["other build"] = (other, str(other / ".venv" / "bin" / "python"))
    took: dict[str, list[dict[str, float]]] = {name: [] for name in builds}
    with ExitStack() as stack:
        urls = {name: stack.enter_context(_service(*build)) for name, build in builds.items()}
        time.sleep(REST_SECONDS)
        for number in range(rounds):
            for name in sorted(builds, reverse=bool(number % 2)):
                found: dict[str, float] = {}
                for part in ("whole", "phases"):
                    process = _started(*builds[name], part, urls[name])
                    found |= json.loads(process.communicate()[0])
                took[name].append(found)
                print(f"round {number}, {name}: {json.dumps(found)}", file=sys.stderr, flush=True)
    for phase in took["this build"][0]:
        for name, each in took.items():
            _told(f"{phase}, {name}", [one[phase] for one in each], "s", TARGETS.get(phase, ""))
        if against is not None:
            pairs = zip(took["other build"], took["this build"], strict=True)
            _told(f"{phase}, ratio", [old[phase] / new[phase] for old, new in pairs], "x", "")


def _told(name: str, values: Sequence[float], unit: str, target: str) -> None:
    line = f"{name:<42} {median(values):>7.3f} {unit} ({min(values):.3f} to {max(values):.3f})"
    print(line + (f"   target: {target}" if target else ""), flush=True)


def _started(root: Path, python: str, part: str, url: str = "") -> subprocess.Popen[str]:
    # By its path: the other build need not have this file. -P: what it imports is the other build's.
    command = [python, "-P", __file__, "--part", part, "--url", url]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=root, stdin=pipe, stdout=pipe, text=True)


@contextmanager
def _service(root: Path, python: str) -> Iterator[str]:
    process = _started(root, python, "service")
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.communicate()


def _serve() -> None:
    from service.local.background import running

    with tempfile.TemporaryDirectory() as folder, running(Path(folder)) as service:
        print(service.url, flush=True)
        sys.stdin.read()


def _whole(url: str) -> dict[str, float]:
    """Registrations as users make them; torch and the client are there already."""
    import torch
    from torch import nn

    from upweight import Client, export_program

    def network() -> nn.Module:
        return nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10))

    def register(program: object) -> float:
        live = {"example": rows} if isinstance(program, nn.Module) else {}
        began = time.perf_counter()
        client.models.register("network", program, loss="cross_entropy", **live)
        return time.perf_counter() - began

    rows = torch.randn(4, 64)
    last = network()
    with Client(url) as client:
        client.models.list()
        found = {"first": register(network()), "second": register(last)}
        found["same module again"] = register(last)
        content = export_program(last, rows)
        register(content)
        found["same bytes again"] = register(content)
    return found


def _phases(url: str) -> dict[str, float]:
    """The same in parts: the export in this process, and all that comes after it."""
    import torch
    from torch import nn

    from upweight import Client, export_program

    rows = torch.randn(4, 64)
    found = {}
    with Client(url) as client:
        client.models.list()
        for which in ("first", "second"):
            network = nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10))
            began = time.perf_counter()
            content = export_program(network, rows)
            exported = time.perf_counter()
            client.models.register("network", content, loss="cross_entropy")
            found[f"{which}: export"] = exported - began
            found[f"{which}: upload and check"] = time.perf_counter() - exported
    return found


if __name__ == "__main__":
    main()
