"""What results are judged beside: scores of the same rows by gradients, activations, texts, losses and chance."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from workers.engine import BadParameter, Problem, Rows, row_predictions
from workers.engine.progress import Progress
from workers.engine.scores.baselines import Blocks as ScoreBlocks
from workers.engine.scores.baselines import (
    activation_similarity,
    gradient_products,
    last_activations,
)
from workers.quality.judging import Judged
from workers.quality.scores import Block, Scores, at_random, of_rows, of_texts

MOST_TOKENS = 20_000_000  # of both sides, held for BM25


@dataclass(frozen=True)
class Baselines:
    """Of one job's rows; without test rows, of each training row by itself. Losses are without weights of rows."""

    problem: Problem
    train: Rows
    test: Rows | None
    mask_input: int | None  # the position of the input that says which tokens pad
    seed: int
    budget_bytes: int
    progress: Progress
    left_out: list[str]  # is added to: those that could not be made, and why

    def judged(self) -> Iterator[Judged]:
        """All that such rows allow, one after the other. Raises EngineError, and what `progress` raises."""
        train, problem, test = self.train, self.problem, self.test
        losses = np.concatenate(
            [
                found.losses.double().cpu().numpy()
                for _, found in row_predictions(
                    problem.plain, problem.unweighted(train), progress=self.progress
                )
            ]
        )
        if test is None:
            draw = np.random.default_rng(self.seed).normal(size=len(train))
            yield Judged("loss", None, lambda: losses, baseline=True)
            yield Judged("random", None, lambda: draw, baseline=True)
            return
        shape = (len(test), len(train))
        budget, progress = self.budget_bytes, self.progress

        def products(*, cosine: bool) -> ScoreBlocks:
            return gradient_products(
                problem, test, train, cosine=cosine, budget_bytes=budget, progress=progress
            )

        def activations() -> ScoreBlocks:
            return activation_similarity(
                problem, test, train, budget_bytes=budget, progress=progress
            )

        yield _baseline(
            _of_engine("gradient product", shape, lambda: products(cosine=False)), per_query=True
        )
        yield _baseline(_of_engine("gradient cosine", shape, lambda: products(cosine=True)))
        try:
            last_activations(problem, next(iter(train.batches(1))))
        except BadParameter as error:
            self.left_out.append(f"Similarity of activations is left out: {error}.")
        else:
            yield _baseline(_of_engine("activation similarity", shape, activations), per_query=True)
        yield from self._texts(test)
        yield Judged(
            "loss", of_rows("loss", losses, len(test)), lambda: losses,
            baseline=True, per_query=False,
        )  # fmt: skip
        yield _baseline(at_random(*shape, self.seed))

    def _texts(self, test: Rows) -> Iterator[Judged]:
        """BM25, where rows are tokens and it is installed."""
        first = next(iter(self.train.batches(1))).inputs
        if first[0].ndim != 2 or first[0].is_floating_point() or first[0].is_complex():
            return
        if (len(test) + len(self.train)) * first[0].shape[1] > MOST_TOKENS:
            self.left_out.append(f"BM25 is left out: there are more than {MOST_TOKENS:,} tokens.")
            return
        try:
            scores = of_texts(_tokens(test, self.mask_input), _tokens(self.train, self.mask_input))
        except ImportError:
            self.left_out.append(
                "BM25 is left out: the worker lacks bm25s; install upweight[bm25]."
            )
            return
        yield _baseline(scores)


def _baseline(scores: Scores, *, per_query: bool = False) -> Judged:
    return Judged(scores.name, scores, lambda: -scores.means(), baseline=True, per_query=per_query)


def _of_engine(name: str, shape: tuple[int, int], made: Callable[[], ScoreBlocks]) -> Scores:
    def blocks() -> Iterator[Block]:
        for test, train, block in made():
            yield test, train, block.double().cpu().numpy()

    return Scores(name, shape, blocks)


def _tokens(rows: Rows, mask: int | None) -> list[list[int]]:
    found: list[list[int]] = []
    for batch in rows.batches(1024):
        tokens = batch.inputs[0].cpu()
        if mask is None:
            found += tokens.tolist()
            continue
        kept = batch.inputs[mask].cpu() != 0
        found += [row[here].tolist() for row, here in zip(tokens, kept, strict=True)]
    return found
