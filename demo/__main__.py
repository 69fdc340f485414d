"""`make demo`: ends by itself with `--exit`, else leaves the service up until Ctrl-C."""

from __future__ import annotations

import argparse
import socket
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from service.local.background import Running, running
from service.local.trouble import LocalTrouble
from upweight import Client
from upweight.errors import UpweightError

if TYPE_CHECKING:
    from torch import nn

    from demo.digits import Digits
    from upweight import InfluenceResult

BEGAN = time.monotonic()
PORT = 8765
SHARES = (0.05, 0.10, 0.20)
PICTURES = Path("demo-pictures")


def main() -> int:
    """Runs the demo. Answers the exit status."""
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--exit", action="store_true", help="end when all is shown")
    parser.add_argument("--port", type=int, help=f"of the service; {PORT}, or a free one, without")
    parser.add_argument("--pictures", type=Path, default=PICTURES, help="folder for the pictures")
    options = parser.parse_args()
    try:
        with (
            tempfile.TemporaryDirectory(prefix="upweight-demo-") as data,
            ThreadPoolExecutor(1) as beside,
        ):
            training = beside.submit(trained)  # torch is loaded while the service starts
            port = usual_port() if options.port is None else options.port
            with running(Path(data), port=port) as service:
                show(service, *training.result(), options.pictures)
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


def trained() -> tuple[Digits, nn.Module]:
    """The digits, and the network trained on them."""
    from demo import digits as handwritten

    digits = handwritten.load()
    return digits, handwritten.train(digits)


def show(service: Running, digits: Digits, network: nn.Module, folder: Path) -> None:
    """The way from data to flipped labels, in steps."""
    from demo import digits as handwritten
    from demo.journey import METHODS, TYPES, Journey, found_among_lowest, most_harmful
    from demo.telling import before_and_after, step, table

    step(
        f"The service is up at {service.url}: Redis, front end and worker, each a process of its own"
    )
    right = handwritten.accuracy(network, digits.x_test, digits.y_test)
    step(
        f"Trained a network of 2,410 parameters on {len(digits.y_train):,} real digits, "
        f"{len(digits.flipped)} of them with a flipped label; it reads {right:.1%} of {len(digits.y_test)} others"
    )
    with Client(service.url, progress=False) as client:
        journey = Journey(client, digits, network)
        step(f"Registered {journey.model.id}, {journey.train.id} and {journey.test.id} over HTTP")
        lines = [journey.influences(method, kind) for kind in TYPES for method in METHODS]
        step(
            "Influences by all four methods, of training digits (up) and of their pixels (perturbation):"
        )
        table(lines, digits)
        itself = journey.self_influences()  # the explorer's second ranking, too
        exact = lines[0].result
        step("The training digits that harm most, by their mean influence on the test digits:")
        print(*most_harmful(exact, digits), sep="\n")
        for share in SHARES:
            found, inspected = found_among_lowest(exact, digits, share)
            print(
                f"      {found} of {len(digits.flipped)} flipped labels are among the {inspected} lowest ranked"
            )
        pixels = next(line.result for line in lines if line.type == "perturbation")
        drawn = draw(exact, pixels, digits, folder)
        step(f"Pictures: {', '.join(str(path) for path in drawn)}")
        cleaned = journey.cleaned(itself, SHARES[0])
        step(
            f"Without the {cleaned.dropped} training digits of most influence on themselves ({cleaned.data.name}), "
            f"trained anew by the same recipe ({cleaned.model.name}); on {len(digits.y_test)} test digits:"
        )
        before_and_after(cleaned, len(digits.flipped))
        report = journey.report(cleaned, folder / "report.html")
        step(f"Before and after, by digit: {report}")
    step(f"All took {time.monotonic() - BEGAN:.0f} s")


def draw(
    exact: InfluenceResult, pixels: InfluenceResult, digits: Digits, folder: Path
) -> list[Path]:
    """What the numbers look like; the files."""
    folder.mkdir(parents=True, exist_ok=True)
    exact.plot("top", folder / "top.png")
    exact.plot("heatmap", folder / "heatmap.png")
    exact.plot("ranking", folder / "flipped.png", flipped=digits.flipped)
    pixels.plot("heatmap", folder / "pixels.png", test=0, train=0)
    return sorted(folder.glob("*.png"))


def wait(service: Running) -> None:
    """Until Ctrl-C."""
    print(
        f"\nLook around at {service.url}/ (API: {service.url}/docs)\nCtrl-C stops it.", flush=True
    )
    while True:
        time.sleep(1)


if __name__ == "__main__":
    sys.exit(main())
