"""Quality where rows have weights: trained with them and judged without, beside models that the test trains itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import nn
from torch.nn import functional as F

from tests.journeys.softmax import optimum
from upweight import Client, InfluenceResult

Array = NDArray[np.float64]
ROWS, TEST, DECAY, NAME = 40, 6, 0.05, "quality-weighted"
RATE = 0.6
RECIPE = {
    "optimizer": "sgd",
    "lr": RATE,
    "momentum": 0.8,
    "epochs": 250,
    "weight_decay": DECAY,
    "start": "warm",
}
GENERATOR = torch.Generator().manual_seed(6)
X = torch.randn(ROWS + TEST, 4, generator=GENERATOR, dtype=torch.float64)
Y = (X[:, :3] + torch.randn(ROWS + TEST, 3, generator=GENERATOR)).argmax(1)
W = torch.rand(ROWS, generator=GENERATOR, dtype=torch.float64) * 3
W[3] = 0.0


def trained(chosen: Any) -> nn.Linear:
    """The optimum of the mean weighted loss of these rows with weight decay, by L-BFGS from 0."""
    x, y, weights = (each[:ROWS][chosen] for each in (X, Y, W))
    return optimum(x, y, DECAY, weights)


def losses(module: nn.Module, rows: slice) -> Array:
    """Of each row, without its weight."""
    with torch.no_grad():
        return np.asarray(F.cross_entropy(module(X[rows]), Y[rows], reduction="none").numpy())


def gradients(module: nn.Module, rows: slice) -> Array:
    """(n, p), without weights."""
    found = []
    for x, y in zip(X[rows], Y[rows], strict=True):
        loss = F.cross_entropy(module(x[None]), y[None])
        pieces = torch.autograd.grad(loss, list(module.parameters()))
        found.append(torch.cat([each.flatten() for each in pieces]).numpy())
    return np.stack(found)


def mean_spearman(predicted: Array, outcomes: Array) -> float:
    """Over columns, along the first axis."""
    pairs = zip(predicted.T, outcomes.T, strict=True)
    return float(np.mean([stats.spearmanr(one, other).statistic for one, other in pairs]))


def subset_losses(subsets: Sequence[Any]) -> Array:
    return np.stack([losses(trained(each), TESTED) for each in subsets])


TRAIN, TESTED = slice(0, ROWS), slice(ROWS, None)


@pytest.fixture(scope="module")
def result(online: Client) -> InfluenceResult:
    """Influences of a weighted softmax regression at its optimum, exact, with λ the weight decay."""
    loss = {"name": "cross_entropy", "row_weights": "w"}
    online.models.register(NAME, trained(slice(None)), example=X[:2], loss=loss)
    online.datasets.register(f"{NAME}-train", x=X[TRAIN], y=Y[TRAIN], w=W, targets=["y", "w"])
    online.datasets.register(f"{NAME}-test", x=X[TESTED], y=Y[TESTED])
    return online.compute_influences(
        NAME, f"{NAME}-train", f"{NAME}-test", hessian_regularization=DECAY
    )


def test_leaving_out_a_weighted_row_is_what_its_influence_says(
    online: Client, result: InfluenceResult
) -> None:
    table = online.evaluate(result, "loo", recipe=RECIPE, left_out=ROWS)
    expected = subset_losses([np.delete(np.arange(ROWS), row) for row in range(ROWS)])
    found = table.rows[0].value
    assert found == pytest.approx(mean_spearman(result.numpy().T, expected), abs=5e-3)
    assert found is not None
    assert found > 0.98
    assert table.warnings == []  # trained anew, the model has the loss that it has


def test_lds_of_weighted_rows_and_of_its_baselines_is_that_of_models_trained_here(
    online: Client, result: InfluenceResult
) -> None:
    table = online.evaluate([result], subsets=12, share=0.6, seed=3, repeats=1, recipe=RECIPE)
    subsets = [
        np.sort(np.random.default_rng([3, 0, number]).permutation(ROWS)[:24])
        for number in range(12)
    ]
    outcomes = -subset_losses(subsets)
    model = trained(slice(None))
    tested, train = gradients(model, TESTED), W.numpy()[:, None] * gradients(model, TRAIN)
    products = tested @ train.T
    lengths = np.linalg.norm(tested, axis=1)[:, None] * np.linalg.norm(train, axis=1)
    cosines = np.divide(products, lengths, out=np.zeros_like(products), where=lengths > 0)
    alone = np.broadcast_to(losses(model, TRAIN), products.shape)
    expected = {
        result.id: result.numpy(),
        "gradient product": products,
        "gradient cosine": cosines,
        "loss": alone,
    }
    for row in table.rows:
        if row.result in expected:
            scores = expected.pop(row.result)
            sums = np.stack([scores[:, subset].sum(1) for subset in subsets])
            assert row.value == pytest.approx(mean_spearman(sums, outcomes), abs=1e-6), row.result
    assert not expected


def test_a_step_on_weighted_rows_takes_their_weights_and_tests_without(
    online: Client, result: InfluenceResult
) -> None:
    table = online.evaluate(result, "tail_patch", recipe=RECIPE, k=5, queries=TEST, baselines=False)
    model = trained(slice(None))
    train = W.numpy()[:, None] * gradients(model, TRAIN)
    theta = torch.cat([each.detach().flatten() for each in model.parameters()])

    def after(rows: NDArray[np.int64], query: int) -> float:
        moved = theta - RATE * torch.from_numpy(train[rows].mean(0))
        nn.utils.vector_to_parameters(moved, stepped.parameters())
        return float(losses(stepped, TESTED)[query])

    stepped = nn.Linear(4, 3).double()
    best = np.argsort(-result.numpy(), 1, kind="stable")[:, :5]
    drawn = [np.random.default_rng([0, 2, query]).permutation(ROWS)[:5] for query in range(TEST)]
    found = [after(drawn[each], each) - after(best[each], each) for each in range(TEST)]
    assert table.rows[0].value == pytest.approx(np.mean(found), rel=1e-4)


def test_rows_tested_by_the_training_data_itself_are_without_weights(
    online: Client, result: InfluenceResult
) -> None:
    own = online.compute_influences(
        NAME, f"{NAME}-train", f"{NAME}-train", test_rows="0:6", hessian_regularization=DECAY
    )
    table = online.evaluate(own, "loo", recipe=RECIPE, left_out=ROWS, baselines=False)
    outcomes = np.stack(
        [
            losses(trained(np.delete(np.arange(ROWS), row)), TRAIN)[:TEST]
            for row in range(ROWS)
        ]
    )  # fmt: skip
    found = table.rows[0].value
    assert found == pytest.approx(mean_spearman(own.numpy().T, outcomes), abs=5e-3)
