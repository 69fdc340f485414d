"""Scores without an inversion, which attribution has to be better than: products of gradients, and of activations.

All yield (slice of test rows, slice of training rows, scores), within a byte budget; POSITIVE is alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from workers.engine.autodiff.gradients import per_example_gradients
from workers.engine.autodiff.layer_io import layer_io
from workers.engine.autodiff.uses import MatrixUse
from workers.engine.errors import BadParameter
from workers.engine.model.batching import (
    DEFAULT_BUDGET,
    RowBlock,
    activation_bytes,
    over_rows,
    rows_at_once,
)
from workers.engine.model.problem import Problem
from workers.engine.model.rows import Batch, Rows
from workers.engine.progress import Progress, silent
from workers.engine.scores.contraction import columns_of

COPIES = 3  # of a row's vector that are alive at once
Blocks = Iterator[tuple[slice, slice, Tensor]]


def gradient_products(
    problem: Problem,
    test: Rows,
    train: Rows,
    *,
    cosine: bool = False,
    budget_bytes: int = DEFAULT_BUDGET,
    progress: Progress | None = None,
) -> Blocks:
    """∇L(z_test) · ∇L(z_train), or the cosine between them (0 where a gradient is 0).

    Where the loss has weights of rows, training rows have them and test rows have none.
    """
    yield from _products(
        problem,
        test,
        train,
        per_example_gradients,
        problem.size,
        cosine,
        budget_bytes,
        progress or silent,
    )


def activation_similarity(
    problem: Problem,
    test: Rows,
    train: Rows,
    *,
    budget_bytes: int = DEFAULT_BUDGET,
    progress: Progress | None = None,
) -> Blocks:
    """The cosine between inputs of the last linear layer, their mean over tokens where there are several.

    Raises BadParameter where no selected parameter is the weight of a linear layer.
    """
    width = last_activations(problem, next(iter(train.batches(1)))).shape[1]
    yield from _products(
        problem,
        test,
        train,
        last_activations,
        width,
        True,
        budget_bytes,
        progress or silent,
    )


def last_activations(problem: Problem, batch: Batch) -> Tensor:
    """(b, d): what goes into the last linear layer, the mean over tokens. Raises BadParameter where there is none."""
    placed = problem.placed(batch)
    uses = [
        each
        for each in layer_io(problem, placed).uses
        if isinstance(each, MatrixUse) and each.groups == 1
    ]
    if not uses:
        raise BadParameter(
            "parameters",
            [each.name for each in problem.layout][:3],
            "the weight of a linear layer among them, whose inputs are compared",
        )
    return uses[-1].inputs(len(placed)).detach().flatten(2).mean(1)


def _products(
    problem: Problem,
    test: Rows,
    train: Rows,
    vectors: Callable[[Problem, Batch], Tensor],
    width: int,
    cosine: bool,
    budget: int,
    progress: Progress,
) -> Blocks:
    """`vectors` gives (b, width) of a batch; test rows are without weights.

    A part of the test rows' is held, and met by all training rows'.
    """
    item = problem.theta.element_size()
    row_bytes = COPIES * width * item + activation_bytes(problem, train)
    size = rows_at_once("auto", len(train), row_bytes, budget // 2, problem.device.type)
    held = max(1, budget // 2 // (width * item))

    def of(problem: Problem, batch: Batch) -> Tensor:
        found = vectors(problem, batch)
        return torch.nn.functional.normalize(found, dim=1) if cosine else found

    tested = problem.plain

    for start in range(0, len(test), held):
        stop = min(start + held, len(test))
        parts = [of(tested, each) for each in test.batches(min(size, stop - start), start, stop)]
        some = torch.cat(parts)
        for batch, found in over_rows(
            train, RowBlock(size), partial(of, problem), what="baselines", progress=progress
        ):
            yield slice(start, stop), columns_of(batch), some @ found.T
