"""What an index's numbers cost and find: `python -m benchmarks.projections`.

Rows a second of processor time, one thread: numbers along eigenvectors, by a random projection, and bergson's build of
the same rows, run after run in turn. Then recall of the 20 rows that help or harm most, of the numbers alone and
after 500 candidates are scored exactly (of a sample, as many as its part of all rows has), λ `auto`, EK-FAC of the
Fisher matrix over all rows. bergson's are compared as they are, and whitened by their own second moment and our λ.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import torch
from torch import Tensor

from benchmarks.figures import told
from benchmarks.peers.environments import python_of
from benchmarks.projections.subjects import SUBJECTS, Subject
from workers.engine import (
    Embedding,
    Over,
    Problem,
    RandomEmbedding,
    SpectralEmbedding,
    Strengths,
    TensorRows,
    make_curvature,
    per_example_gradients,
    up,
)
from workers.engine.curvature.structured.blocks import Spectral
from workers.engine.curvature.structured.layout import Layout
from workers.engine.inversion.damping import LEAST_OF_MEAN, PartOfMean
from workers.engine.model.rows import ChosenRows
from workers.engine.projection.layers import Projection
from workers.jobs.asked_damping import damped
from workers.jobs.indexing import SAMPLED, USUAL_CANDIDATES, agreement
from workers.jobs.steps import spaced

WORKER = Path(__file__).with_name("by_bergson.py")
QUERIES, CHOSEN_BY = 64, 256  # rows that ask, and by which eigenvectors are chosen
SEED = 0


@dataclass(frozen=True)
class Made:
    """Both ways to make numbers of one subject's rows, and what is exact."""

    problem: Problem
    rows: TensorRows
    form: Spectral
    spectral: SpectralEmbedding
    random: RandomEmbedding

    @classmethod
    def of(cls, subject: Subject, dimension: int) -> Made:
        """Tells what the fits take, in processor seconds."""
        problem, rows = subject.problem(), subject.rows
        began = time.process_time()
        curvature = make_curvature(Over(problem, rows, seed=SEED), "fisher", "ekfac")
        found = curvature.closed_form()
        assert found is not None
        form = damped(found, PartOfMean(LEAST_OF_MEAN, lifts=True))
        assert isinstance(form, Spectral)
        fitted = time.process_time()
        told(f"{subject.name}: EK-FAC of {len(rows):,} rows", [fitted - began], "s of processor")
        chosen = ChosenRows(rows, spaced(len(rows), CHOSEN_BY))
        strengths = Strengths.of(
            form, dimension, lambda whole: (block for _, block in whole.of_rows(problem, chosen))
        )
        spectral = SpectralEmbedding.of(form, strengths)
        began = time.process_time()
        layout = Layout.of_matrices(problem, rows)
        projection = Projection.drawn(layout, dimension, SEED, problem.theta)
        random = RandomEmbedding.of(projection, form)
        told(
            f"{subject.name}: projected curvature", [time.process_time() - began], "s of processor"
        )
        return cls(problem, rows, form, spectral, random)

    def numbers(self, embedding: Embedding) -> tuple[Tensor, float]:
        """(n, width), and the processor seconds that they take."""
        began = time.process_time()
        found = torch.cat([block for _, block in embedding.of_rows(self.problem, self.rows)])
        return found, time.process_time() - began

    def recall(self, name: str, numbers: Tensor) -> None:
        """Tells how many of the strongest rows these numbers find."""
        total = len(self.rows)
        asking, among = spaced(total, QUERIES), spaced(total, SAMPLED)
        gradients = per_example_gradients(self.problem, self.rows.take(asking))
        exact = torch.cat(
            [block for _, block in up(self.problem, self.form.apply(gradients), self.rows)], 1
        )
        candidates = min(len(among), max(40, round(USUAL_CANDIDATES * len(among) / total)))
        scores = numbers[asking] @ numbers[among].T
        same = asking[:, None] == among
        found = agreement(scores, exact[:, among], same, candidates, None, None)
        told(f"{name}, {numbers.shape[1]:,} numbers: recall alone", [found["recall"]], "")
        told(f"{name}: after {candidates} candidates", [found["recall_after_rerank"]], "")
        told(f"{name}: rank correlation", [found["rank_correlation"]], "")


def main() -> None:
    """Prints the figures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.projections", description=__doc__)
    parser.add_argument("--subject", action="append", choices=sorted(SUBJECTS))
    parser.add_argument("--dimension", type=int, default=256, help="of a layer; a square")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--python", type=Path, help="one that has bergson; else one is made")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in options.subject or SUBJECTS:
        subject = SUBJECTS[name]()
        made = Made.of(subject, options.dimension)
        ways: dict[str, Callable[[], tuple[Tensor, float]]] = {
            "eigenvectors": lambda made=made: made.numbers(made.spectral),  # type: ignore[misc]
            "random": lambda made=made: made.numbers(made.random),  # type: ignore[misc]
        }
        if subject.language_model is not None:
            python = options.python or python_of("bergson")
            side = round(options.dimension**0.5)
            ways["bergson"] = lambda s=subject, p=python, k=side: _bergson(s, p, k)  # type: ignore[misc]
        took: dict[str, list[float]] = {way: [] for way in ways}
        numbers: dict[str, Tensor] = {}
        for _ in range(options.runs):
            for way, run in ways.items():
                numbers[way], seconds = run()
                took[way].append(len(subject.rows) / seconds)
        for way, found in took.items():
            told(f"{name}, {way}", found, "rows/s of processor")
        ours = median(took["random"])
        told(f"{name}: random beside eigenvectors", [ours / median(took["eigenvectors"])], "x")
        if "bergson" in took:
            told(f"{name}: random beside bergson", [ours / median(took["bergson"])], "x", "3")
            numbers["bergson, whitened"] = _whitened(numbers["bergson"], made.form, subject)
        for way, found_numbers in numbers.items():
            made.recall(f"{name}, {way}", found_numbers)


def _bergson(subject: Subject, python: Path, side: int) -> tuple[Tensor, float]:
    """In a process of its own, whose second run counts: the first one starts what is started once."""
    assert subject.language_model is not None
    with tempfile.TemporaryDirectory() as folder:
        subject.language_model.save_pretrained(Path(folder) / "model")
        (batch,) = subject.rows.batches(len(subject.rows))
        np.save(Path(folder) / "tokens.npy", batch.inputs[0].numpy())
        command = [str(python), str(WORKER), folder, str(side), "2"]
        told_of = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        found = torch.from_numpy(np.load(Path(folder) / "bergson.npy"))
    seconds: list[float] = json.loads(told_of.strip().splitlines()[-1])
    return found.float(), seconds[-1]


def _whitened(numbers: Tensor, form: Spectral, subject: Subject) -> Tensor:
    """By the second moment of each module's numbers, of the data's own labels, and the mean of our λ's."""
    damping = float(np.mean(form.dampings))
    parts = []
    for own in numbers.double().split(numbers.shape[1] // subject.modules, 1):
        values, vectors = torch.linalg.eigh(own.mT @ own / len(own))
        parts.append(own @ (vectors * (values.clamp(min=0.0) + damping).rsqrt()))
    return torch.cat(parts, 1).float()


if __name__ == "__main__":
    main()
