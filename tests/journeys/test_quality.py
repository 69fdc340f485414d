"""Results held against retraining through the service, beside models that the test trains itself."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn
from torch.nn import functional as F

from tests.journeys.softmax import optimum
from upweight import AsyncClient, Client, InfluenceResult, errors

ROWS, TEST, DECAY, NAME = 40, 6, 0.05, "quality"
# All rows at once, to the optimum: what the test's own L-BFGS comes to.
RECIPE = {
    "optimizer": "sgd",
    "lr": 1.0,
    "momentum": 0.8,
    "epochs": 150,
    "weight_decay": DECAY,
    "start": "warm",
}
BASELINES = ["gradient product", "gradient cosine", "activation similarity", "loss", "random"]


def rows() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(ROWS + TEST, 4, generator=generator, dtype=torch.float64)
    y = (x[:, :3] + torch.randn(ROWS + TEST, 3, generator=generator)).argmax(1)
    return x, y


def trained(chosen: Any) -> nn.Linear:
    """The optimum of the mean loss of these rows with weight decay, by L-BFGS from 0."""
    x, y = (each[:ROWS][chosen] for each in rows())
    return optimum(x, y, DECAY)


def test_losses(module: nn.Module) -> np.ndarray:
    x, y = (each[ROWS:] for each in rows())
    with torch.no_grad():
        return F.cross_entropy(module(x), y, reduction="none").numpy()


test_losses.__test__ = False


@pytest.fixture(scope="module")
def result(online: Client) -> InfluenceResult:
    """Influences of a softmax regression at its optimum, exact, with λ the weight decay."""
    x, y = rows()
    online.models.register(NAME, trained(slice(None)), example=x[:2], loss="cross_entropy")
    online.datasets.register(f"{NAME}-train", x=x[:ROWS], y=y[:ROWS])
    online.datasets.register(f"{NAME}-test", x=x[ROWS:], y=y[ROWS:])
    return online.compute_influences(
        NAME, f"{NAME}-train", f"{NAME}-test", hessian_regularization=DECAY
    )


def test_leave_one_out_of_a_convex_problem_is_near_1(
    online: Client, result: InfluenceResult
) -> None:
    table = online.evaluate(result, "loo", recipe=RECIPE, left_out=ROWS)
    found = table.rows[0]
    expected = np.stack(
        [test_losses(trained(np.delete(np.arange(ROWS), row))) for row in range(ROWS)]
    )
    influences = result.numpy()
    each = [
        stats.spearmanr(one, other).statistic
        for one, other in zip(influences, expected.T, strict=True)
    ]
    assert found.result == result.id
    assert found.value == pytest.approx(np.mean(each), abs=5e-3)
    assert found.value is not None
    assert found.value > 0.99
    assert found.n == TEST


def test_lds_is_that_of_models_trained_here_on_the_same_subsets(
    online: Client, result: InfluenceResult
) -> None:
    table = online.evaluate([result], subsets=12, share=0.6, seed=3, repeats=1, recipe=RECIPE)
    subsets = [
        np.sort(np.random.default_rng([3, 0, number]).permutation(ROWS)[:24])
        for number in range(12)
    ]
    losses = np.stack([test_losses(trained(subset)) for subset in subsets])
    influences = result.numpy()
    sums = np.stack([influences[:, subset].sum(1) for subset in subsets])
    each = [
        stats.spearmanr(one, -other).statistic for one, other in zip(sums.T, losses.T, strict=True)
    ]
    found = table.rows[0]
    assert found.value == pytest.approx(np.mean(each), abs=1e-6)
    assert found.low is not None
    assert found.high is not None
    assert found.low < found.value < found.high
    assert [row.result for row in table.rows if row.baseline] == BASELINES
    assert table.noise is not None
    assert table.noise.value is None  # one repeat


def test_the_table_has_the_columns_that_are_promised(
    online: Client, result: InfluenceResult
) -> None:
    table = online.evaluate(result, subsets=3, repeats=1, recipe=RECIPE, baselines=False)
    frame = table.to_pandas()
    assert list(frame.columns) == ["result", "measure", "value", "low", "high"]
    assert list(frame["result"]) == [result.id]
    assert {"method", "damping", "n", "pearson"} <= set(table.to_pandas(all_columns=True).columns)
    assert len(table.plot().axes) == 1
    assert result.id[-6:] in repr(table)


def test_a_verdict_has_the_quality_last_measured_for_its_method_and_damping(
    online: Client, result: InfluenceResult
) -> None:
    table = online.evaluate(result, subsets=5, repeats=1, recipe=RECIPE, baselines=False)
    quality = online.jobs.get(result.id).verdict.quality
    assert quality is not None
    assert (quality.measure, quality.job) == ("lds", table.job)
    assert quality.value == pytest.approx(table.rows[0].value)
    again = online.compute_influences(
        NAME, f"{NAME}-train", f"{NAME}-test", hessian_regularization=DECAY, test_rows="0:2"
    )
    assert online.jobs.get(again.id).verdict.quality == quality
    other = online.compute_influences(
        NAME, f"{NAME}-train", f"{NAME}-test", hessian_regularization=2 * DECAY
    )
    assert online.jobs.get(other.id).verdict.quality is None


def test_a_list_of_dampings_is_judged_one_by_one(online: Client, result: InfluenceResult) -> None:
    several = online.compute_influences(
        NAME, f"{NAME}-train", f"{NAME}-test", hessian_regularization=[DECAY, 10.0]
    )
    table = online.evaluate([result, several], "loo", recipe=RECIPE, left_out=15, baselines=False)
    alone, first, second = table.rows
    assert (first.damping, second.damping) == (DECAY, 10.0)
    assert first.value == pytest.approx(alone.value, abs=1e-9)
    assert second.value is not None
    assert first.value is not None
    assert second.value < first.value
    assert list(table.to_pandas()["result"])[1:] == [
        f"{several.id} at λ = 0.05",
        f"{several.id} at λ = 10",
    ]


def test_removing_and_stepping_on_the_most_helpful_rows_does_more_than_random_ones(
    online: Client, result: InfluenceResult
) -> None:
    table = online.evaluate(result, ["brittleness", "tail_patch"], recipe=RECIPE, k=5, queries=TEST)
    found = {row.measure: row for row in table.rows if row.result == result.id}
    influences, everything = result.numpy(), np.arange(ROWS)
    best = np.argsort(-influences, 1, kind="stable")[:, :5]
    drawn = [np.random.default_rng([0, 2, query]).permutation(ROWS)[:5] for query in range(TEST)]

    def without(rows: Any) -> np.ndarray:
        losses = [test_losses(trained(np.setdiff1d(everything, some))) for some in rows]
        return np.diagonal(np.stack(losses))

    expected = (without(best) - without(drawn)).mean()
    assert found["brittleness"].value == pytest.approx(expected, rel=1e-3)
    assert found["brittleness"].value > 0
    assert found["tail_patch"].value is not None
    assert found["tail_patch"].value > 0


def test_planted_labels_are_found_by_influences_and_self_influences(online: Client) -> None:
    x, y = rows()
    planted = y[:ROWS].clone()
    planted[:5] = (planted[:5] + 1) % 3
    online.datasets.register(f"{NAME}-planted", x=x[:ROWS], y=planted)
    influences = online.compute_influences(
        NAME, f"{NAME}-planted", f"{NAME}-test", hessian_regularization=DECAY
    )
    own = online.self_influences(NAME, f"{NAME}-planted", hessian_regularization=DECAY)
    table = online.evaluate([influences, own], "mislabel", wrong=range(5))
    by_mean, recall, by_self, *_ = table.rows
    suspicion = -influences.numpy().mean(0)
    pairs = [suspicion[bad] > suspicion[good] for bad in range(5) for good in range(5, ROWS)]
    assert by_mean.value == pytest.approx(np.mean(pairs))
    assert recall.measure == "recall"
    assert by_self.result == own.id
    assert by_self.value is not None
    assert by_self.value > 0.7
    assert "loss" in {row.result for row in table.rows if row.baseline}


def test_tune_says_which_method_and_damping_to_use(online: Client, result: InfluenceResult) -> None:
    tuned = online.tune(
        NAME,
        f"{NAME}-train",
        f"{NAME}-test",
        methods=["direct", {"inversion_method": "ekfac", "curvature": "gauss_newton"}, "no-such"],
        dampings=[DECAY, 1.0],
        subsets=20,
        repeats=1,
        recipe=RECIPE,
    )
    assert len(tuned.table.rows) == 4 + len(BASELINES)
    assert tuned.why.startswith("Use ")
    assert "baseline" in tuned.why
    assert len(tuned.left_out) == 1
    assert "no-such" in tuned.left_out[0]
    best = tuned.table.best()
    assert best is not None
    assert tuned.best["hessian_regularization"] == best.damping
    again = online.compute_influences(NAME, f"{NAME}-train", f"{NAME}-test", **tuned.best)
    assert again.shape == (TEST, ROWS)


async def _evaluated(url: str, id: str) -> Any:
    async with AsyncClient(url) as client:
        return await client.evaluate(id, subsets=4, repeats=1, recipe=RECIPE, baselines=False)


def test_the_coroutine_gives_the_same_table(online: Client, result: InfluenceResult) -> None:
    import asyncio

    table = asyncio.run(_evaluated(online.connection.url, result.id))
    again = online.evaluate(result, subsets=4, repeats=1, recipe=RECIPE, baselines=False)
    assert table.rows == again.rows


def test_a_registered_recipe_and_its_bank_are_used_again(
    online: Client,
    result: InfluenceResult,  # whose data it takes
) -> None:
    x, _ = rows()
    torch.manual_seed(1)
    begun = nn.Linear(4, 3).double()
    online.models.register(
        f"{NAME}-recipe", trained(slice(None)), example=x[:2], loss="cross_entropy",
        recipe={**RECIPE, "start": "initial"}, initial=begun,
    )  # fmt: skip
    own = online.compute_influences(
        f"{NAME}-recipe", f"{NAME}-train", f"{NAME}-test", hessian_regularization=DECAY
    )
    once = online.evaluate(own, subsets=6, repeats=2, baselines=False)
    banks = {bank.id: bank.subsets for bank in online.banks.list()}
    again = online.evaluate(own, subsets=6, repeats=2, baselines=False)
    assert once.rows == again.rows
    assert once.noise is not None
    assert once.noise.value == pytest.approx(1.0, abs=0.05)  # convex: no noise but rounding
    assert {bank.id: bank.subsets for bank in online.banks.list()} == banks
    more = online.evaluate(own, subsets=7, repeats=2, baselines=False)
    assert more.rows[0].value is not None
    grown = {bank.id: bank.subsets for bank in online.banks.list()}
    assert sum(grown.values()) == sum(banks.values()) + 2  # one subset more, with each seed


def test_a_running_job_is_cancelled(online: Client, result: InfluenceResult) -> None:
    slow = {**RECIPE, "epochs": 2_000_000}
    record = online.jobs.create(request_for(result, recipe=slow))
    for seen in online.jobs.events(record.id):
        if seen.state == "running" and seen.stage == "retrain":
            break
    online.jobs.cancel(record.id)
    for seen in online.jobs.events(record.id):
        last = seen
    assert last.state == "cancelled"


def request_for(result: InfluenceResult, **changes: Any) -> dict[str, Any]:
    return {
        "kind": "quality",
        "model": NAME,
        "train": {"dataset": f"{NAME}-train"},
        "results": [result.id],
        "recipe": RECIPE,
        **changes,
    }


@pytest.mark.parametrize(
    ("changes", "pointer", "words"),
    [
        ({"results": ["job_" + "0" * 26]}, "/results/0", "job"),
        ({"train": {"dataset": f"{NAME}-test"}}, "/train", "have all of 'quality-train'"),
        ({"share": 0.001}, "/share", "none of them"),
        ({"recipe": None}, "/recipe", "without a recipe"),
        ({"measures": ["mislabel"]}, "", "needs 'wrong'"),
        ({"measures": ["mislabel"], "wrong": "0:40"}, "/wrong", "leave some that are right"),
        ({"measures": ["brittleness"], "k": 30}, "/k", "at most half"),
        ({"subsets": 2}, "/subsets", "3"),
        ({"measures": ["lds", "lds"]}, "", "twice"),
        ({"model": "no-such-model"}, "/model", "no-such-model"),
    ],
)
def test_what_can_not_be_judged_is_refused_by_name(
    http: httpx2.Client, result: InfluenceResult, changes: dict[str, Any], pointer: str, words: str
) -> None:
    answer = http.post("/v1/jobs", json=request_for(result, **changes))
    problem = answer.json()
    assert 400 <= answer.status_code < 500
    told = {each["pointer"]: each["detail"] for each in problem.get("errors", [])}
    where = pointer if pointer in told else next(iter(told), "")
    assert where.startswith(pointer)
    assert words in told.get(where, problem["detail"])


def test_results_over_other_rows_are_refused(online: Client, result: InfluenceResult) -> None:
    fewer = online.compute_influences(
        NAME, f"{NAME}-train", f"{NAME}-test", hessian_regularization=DECAY, train_rows="0:30"
    )
    with pytest.raises(errors.InvalidRequest, match="train rows are not those of job"):
        online.evaluate([result, fewer], recipe=RECIPE)


def test_a_result_without_its_matrix_is_refused(online: Client, result: InfluenceResult) -> None:
    top = online.compute_influences(
        NAME, f"{NAME}-train", f"{NAME}-test", hessian_regularization=DECAY,
        keep={"matrix": False, "top": 3},
    )  # fmt: skip
    with pytest.raises(errors.InvalidRequest, match=r"keep\.matrix"):
        online.evaluate(top, recipe=RECIPE)


def test_a_recipe_that_diverges_fails_in_words(online: Client, result: InfluenceResult) -> None:
    diverging = {
        "optimizer": "sgd", "lr": 1e200, "epochs": 3, "batch_size": 8, "start": "warm",
        "weight_decay": 0.1,
    }  # fmt: skip
    with pytest.raises(errors.UpweightError, match="epoch"):
        online.evaluate(result, subsets=3, recipe=diverging)


def test_models_of_a_bank_that_diverge_are_named_and_the_others_are_kept(online: Client) -> None:
    """One row is so large that a step is too long for models on half of the rows, and none for that on all."""
    x = torch.randn(24, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x[7] = torch.tensor([2200**0.5, 0.0])
    y = x.sum(1, keepdim=True)
    online.models.register(f"{NAME}-line", nn.Linear(2, 1).double(), example=x[:2], loss="mse")
    online.datasets.register(f"{NAME}-line-rows", x=x, y=y)
    judged = online.compute_influences(
        f"{NAME}-line", f"{NAME}-line-rows", f"{NAME}-line-rows", hessian_regularization=1.0
    )
    recipe = {"optimizer": "sgd", "lr": 0.01, "epochs": 500, "start": "warm"}
    words = (
        r"subset \d+: the training diverged: NaN or infinity in epoch \d+, .* So did subset \d+ in epoch \d+.*"
        r"others that trained with them are kept"
    )
    with pytest.raises(errors.UpweightError, match=words):
        online.evaluate(judged, subsets=8, repeats=1, recipe=recipe, baselines=False)
    tame = [
        number
        for number in range(8)
        if 7 not in np.random.default_rng([0, 0, number]).permutation(24)[:12]
    ]
    assert 1 <= len(tame) <= 6
    kept = {
        bank.seed: bank.subsets for bank in online.banks.list() if bank.model.name == f"{NAME}-line"
    }
    assert kept == {0: 1, 1: len(tame)}


def test_the_command_prints_the_table_and_the_record_tells_the_quality(
    online: Client, result: InfluenceResult, tmp_path: Path
) -> None:
    def run(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "upweight.cli", *words, "--url", online.connection.url],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        return done.stdout

    picture = tmp_path / "quality.png"
    options = ["--subsets", "4", "--repeats", "1", "--recipe", json.dumps(RECIPE)]
    printed = run("evaluate", result.id, *options, "--plot", str(picture))
    head, first, *_ = printed.splitlines()
    assert head.split() == [
        "RESULT", "METHOD", "LAMBDA", "MEASURE", "VALUE", "LOW", "HIGH", "N",
    ]  # fmt: skip
    assert first.startswith(result.id)
    assert "baseline" in printed
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert "lds" in run("jobs", "show", result.id)
    report = json.loads(run("evaluate", result.id, *options, "--no-baselines", "--json"))
    assert [row["result"] for row in report["rows"]] == [result.id]
