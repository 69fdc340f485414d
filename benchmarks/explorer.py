"""The explorer over a result of 10,000 × 100,000: from an empty browser to a view with its numbers.

Means and predictions are the worker's; of the matrix two chunks of rows are made up, the first and that of the largest
loss, and the rest is never written, since a view reads one of its rows. Chromium and its driver are needed. The result
is made once and found again in the data folder, so that each view can be timed by a run of its own:

    python -m benchmarks.explorer --data /tmp/explorer prepare
    python -m benchmarks.explorer --data /tmp/explorer test
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import which

import numpy as np
import redis
import torch
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from torch import nn

from benchmarks.figures import told
from service.local.background import Running, running
from service.storage.arrays import NewMatrix
from service.storage.layout import ResultPaths
from service.storage.objects import Objects
from service.storage.records import Records
from upweight import Client

PIXELS, CLASSES = 64, 10
CHUNK = (256, 4096)  # as the worker cuts a matrix of this shape
PATIENCE = 60.0  # seconds for a view
PREPARE = "prepare"
VIEWS = {
    "test": ("test examples", "test", ".influencers .card"),
    "hardest": ("test examples, largest loss first", "test?sort=-loss", ".influencers .card"),
    "training": ("training set", "training", ".ranking tbody tr"),
}
Size = tuple[int, int]  # test rows, training rows


def main() -> None:
    """Prints the figures."""
    given = arguments()
    size = (given.tests, given.trains)
    with tempfile.TemporaryDirectory() as folder, running(given.data or Path(folder)) as service:
        id = found(service, size) or stored(service, size)
        for chosen in given.views or VIEWS:
            if chosen != PREPARE:
                timed(f"{service.url}/#/jobs/{id}", chosen, size, given.runs)


def arguments() -> argparse.Namespace:
    """What to time, and over what."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "views", nargs="*", metavar="VIEW", help=f"{', '.join(VIEWS)}; or {PREPARE}"
    )
    parser.add_argument("--data", type=Path, help="folder that keeps the result from run to run")
    parser.add_argument("--tests", type=int, default=10_000, help="rows of the result")
    parser.add_argument("--trains", type=int, default=100_000, help="columns of the result")
    parser.add_argument("--runs", type=int, default=7, help="browsers opened for each view")
    given = parser.parse_args()
    unknown = {*given.views} - {*VIEWS, PREPARE}
    if unknown:
        parser.error(f"no view {unknown.pop()!r}; there are {', '.join(VIEWS)}")
    return given


def timed(job: str, chosen: str, size: Size, runs: int) -> None:
    """One view, in as many new browsers."""
    name, view, sign = VIEWS[chosen]
    times = [shown(f"{job}/{view}", sign) for _ in range(runs)]
    told(f"explorer, {size[0]:,} × {size[1]:,}: {name}", times, "s", "below 1")


def found(service: Running, size: Size) -> str | None:
    """The id of the job that an earlier run has left."""
    with Client(service.url, progress=False) as client:
        jobs = client.jobs.list(labels=labels(size), state="succeeded", limit=1)
        return next((job.id for job in jobs if "matrix" in job.result.stored), None)


def labels(size: Size) -> dict[str, str]:
    """By which the job is found again."""
    return {"benchmark": "explorer", "size": f"{size[0]}x{size[1]}"}


def stored(service: Running, size: Size) -> str:
    """The id of a new job with such a result."""
    tests, trains = size
    generator = np.random.default_rng(0)
    with Client(service.url, progress=False) as client:
        sides = [
            client.datasets.register(
                name,
                x=generator.random((rows, PIXELS), dtype="f4"),
                y=generator.integers(0, CLASSES, rows),
                preview={"kind": "image", "column": "x", "shape": (8, 8)},
            )
            for name, rows in (("train", trains), ("test", tests))
        ]
        torch.manual_seed(0)
        model = client.models.register(
            "linear",
            nn.Linear(PIXELS, CLASSES),
            example=torch.zeros(2, PIXELS),
            loss="cross_entropy",
        )
        result = client.compute_influences(
            model, *sides, inversion_method="direct", hessian_regularization=0.1,
            keep={"matrix": False, "mean": True}, labels=labels(size),
        )  # fmt: skip
        hardest = result.rows(side="test", sort="-loss", limit=1).items[0].position
    objects = Objects(service.storage)
    path = ResultPaths("default", result.id).influences
    matrix = NewMatrix(path, size, CHUNK, "float32")
    matrix.describe(objects)
    for row in {0, hardest // CHUNK[0]}:
        for column, start in enumerate(range(0, trains, CHUNK[1])):
            block = (min(CHUNK[0], tests - row * CHUNK[0]), min(CHUNK[1], trains - start))
            matrix.write(objects, row, column, generator.normal(size=block).astype("f4"))
    with redis.Redis.from_url(service.redis_url) as client:
        Records(client).update("job", "default", result.id, with_matrix)
    return result.id


def with_matrix(job: dict) -> dict:
    """The record of a job that has kept its matrix."""
    kept = [*job["result"]["stored"], "matrix"]
    return {**job, "result": {**job["result"], "stored": kept}}


def shown(address: str, sign: str) -> float:
    """Seconds from an empty page to this element, in a browser that has never been here."""
    with browser() as chrome:
        began = time.perf_counter()
        chrome.get(address)
        while not chrome.find_elements(By.CSS_SELECTOR, sign):
            if time.perf_counter() - began > PATIENCE:
                raise TimeoutError(f"{address} shows no {sign!r} after {PATIENCE:g} s")
            time.sleep(0.005)
        return time.perf_counter() - began


@contextmanager
def browser() -> Iterator[Chrome]:
    """A Chromium without a window."""
    options = ChromeOptions()
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(flag)
    options.binary_location = which("chromium") or ""
    chrome = Chrome(options=options, service=Service(which("chromedriver")))
    try:
        yield chrome
    finally:
        chrome.quit()


if __name__ == "__main__":
    main()
