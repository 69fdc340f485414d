"""The explorer over a result of 10,000 × 100,000: from an empty browser to a view with its numbers.

Means and predictions are the worker's; of the matrix the first 256 rows are made up, and the rest is never written,
since a view reads one of its rows. Chromium and its driver are needed.
"""

from __future__ import annotations

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
from service.results.layout import ResultPaths
from service.storage.arrays import NewMatrix
from service.storage.objects import Objects
from service.storage.records import Records
from upweight import Client

TESTS, TRAINS, PIXELS, CLASSES = 10_000, 100_000, 64, 10
CHUNK = (256, 4096)  # as the worker cuts a matrix of this shape
RUNS = 7
VIEWS = {
    "test examples": ("test", ".influencers .card"),
    "test examples, largest loss first": ("test?sort=-loss", ".influencers .card"),
    "training set": ("training", ".ranking tbody tr"),
}


def main() -> None:
    """Prints the figures."""
    with tempfile.TemporaryDirectory() as folder, running(Path(folder)) as service:
        id = stored(service)
        for name, (view, sign) in VIEWS.items():
            address = f"{service.url}/#/jobs/{id}/{view}"
            times = [shown(address, sign) for _ in range(RUNS)]
            told(f"explorer, {TESTS:,} × {TRAINS:,}: {name}", times, "s", "below 1")


def stored(service: Running) -> str:
    """The id of a job with such a result."""
    generator = np.random.default_rng(0)
    with Client(service.url, progress=False) as client:
        sides = [
            client.datasets.register(
                name,
                x=generator.random((rows, PIXELS), dtype="f4"),
                y=generator.integers(0, CLASSES, rows),
                preview={"kind": "image", "column": "x", "shape": (8, 8)},
            )
            for name, rows in (("train", TRAINS), ("test", TESTS))
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
            keep={"matrix": False, "mean": True},
        )  # fmt: skip
    objects = Objects(service.storage)
    path = ResultPaths("default", result.id).influences
    matrix = NewMatrix(path, (TESTS, TRAINS), CHUNK, "float32")
    matrix.describe(objects)
    for column, start in enumerate(range(0, TRAINS, CHUNK[1])):
        width = min(CHUNK[1], TRAINS - start)
        matrix.write(objects, 0, column, generator.normal(size=(CHUNK[0], width)).astype("f4"))
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
