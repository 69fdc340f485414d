"""`make demo`: ends by itself with `--exit`, else leaves the service up until Ctrl-C."""

from __future__ import annotations

import argparse
import socket
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from demo import digits as handwritten
from demo.journey import METHODS, Journey, found_among_lowest, most_harmful
from service.local.background import Running, running
from service.local.trouble import LocalTrouble
from upweight import Client
from upweight.errors import UpweightError

PORT = 8765
SHARES = (0.05, 0.10, 0.20)


def main() -> int:
    """Runs the demo. Answers the exit status."""
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--exit", action="store_true", help="end when all is shown")
    parser.add_argument("--port", type=int, help=f"of the service; {PORT}, or a free one, without")
    options = parser.parse_args()
    try:
        with (
            tempfile.TemporaryDirectory(prefix="upweight-demo-") as data,
            running(
                Path(data), port=usual_port() if options.port is None else options.port
            ) as service,
        ):
            show(service)
            if not options.exit:
                wait(service)
    except (LocalTrouble, UpweightError) as error:
        print(f"\nThe demo has failed: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped.")
    return 0


def usual_port() -> int:
    """The port that the README's examples name, or 0, any free one, where it is taken."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", PORT))
        except OSError:
            return 0
    return PORT


def show(service: Running) -> None:
    """The way from data to flipped labels, in steps."""
    began = time.monotonic()
    step(
        f"The service is up at {service.url}: Redis, front end and worker, each a process of its own"
    )
    digits = handwritten.load()
    network = handwritten.train(digits)
    right = handwritten.accuracy(network, digits.x_test, digits.y_test)
    step(
        f"Trained a network of 2,410 parameters on {len(digits.y_train):,} real digits, "
        f"{len(digits.flipped)} of them with a flipped label; it reads {right:.1%} of {len(digits.y_test)} others"
    )
    with Client(service.url) as client:
        journey = Journey(client, digits, network)
        step(f"Registered {journey.model.id}, {journey.train.id} and {journey.test.id} over HTTP")
        matrices = {}
        for method in METHODS:
            result = journey.influences(method)
            cost = result.job.cost
            seconds = f"{cost.seconds:.2f} s" if cost else "?"
            step(
                f"{method}: {result.shape[0]} × {result.shape[1]} influences in {seconds} ({result.id})"
            )
            print(*most_harmful(result, digits), sep="\n")
            for share in SHARES:
                found, inspected = found_among_lowest(result, digits, share)
                print(
                    f"      {found} of {len(digits.flipped)} flipped labels are among the {inspected} lowest ranked"
                )
            matrices[method] = result.numpy()
    gap = np.linalg.norm(matrices["cg"] - matrices["direct"]) / np.linalg.norm(matrices["direct"])
    step(f"cg and direct differ by {gap:.1e} relative; all took {time.monotonic() - began:.0f} s")


def wait(service: Running) -> None:
    """Until Ctrl-C."""
    print(f"\nThe service stays up:  {service.url}/docs\nCtrl-C stops it.", flush=True)
    while True:
        time.sleep(1)


def step(words: str) -> None:
    """One line of the story."""
    print(f"\n• {words}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
