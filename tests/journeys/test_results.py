"""A result is one thing, however it is looked at: by slice, by rank, by mean, as a file, as npy or JSON."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from service.storage.layout import ResultPaths
from service.storage.objects import Objects
from tests.journeys.subjects import Subject
from upweight import Client, InfluenceResult, errors

NPY = {"Accept": "application/x-npy"}
JSON = {"Accept": "application/json"}


def computed(online: Client, iris: Subject, **values: Any) -> InfluenceResult:
    return online.compute_influences(
        *iris.names, hessian_regularization=iris.damping, precision="float64", **values
    )


pytestmark = pytest.mark.both_storages


@pytest.fixture(scope="module")
def whole(online: Client, iris: Subject) -> InfluenceResult:
    """Everything kept, of some rows that are not the first."""
    keep = {"matrix": True, "top": 5, "mean": True, "factors": True}
    return computed(online, iris, test_rows="20:30,3", train_rows="::2", keep=keep)


@pytest.fixture(scope="module")
def matrix_only(online: Client, iris: Subject) -> InfluenceResult:
    return computed(online, iris, test_rows="20:30,3", train_rows="::2")


@pytest.fixture(scope="module")
def perturbation(online: Client, iris: Subject) -> InfluenceResult:
    return computed(online, iris, test_rows="0:4", influence_type="perturbation")


def path(result: InfluenceResult) -> str:
    return f"/v1/jobs/{result.id}"


def npy(answer: httpx2.Response) -> np.ndarray[Any, Any]:
    assert answer.status_code == 200, answer.text
    found: np.ndarray[Any, Any] = np.load(io.BytesIO(answer.content), allow_pickle=False)
    return found


INDEXES = [
    np.s_[0], np.s_[-1], np.s_[2, 5], np.s_[-2, -7], np.s_[:], np.s_[...], np.s_[3:5], np.s_[::3],
    np.s_[::-1], np.s_[8:2:-2], np.s_[2:2], np.s_[:, 7], np.s_[:, -3:], np.s_[3:5, ::10],
    np.s_[1, ::-1], np.s_[[5, 1, 5]], np.s_[[5, 1], -3:], np.s_[:, [9, 2, 40]], np.s_[-100:100],
    np.s_[..., 4],
]  # fmt: skip


@pytest.mark.parametrize("index", INDEXES, ids=str)
def test_a_slice_is_what_numpy_gives(whole: InfluenceResult, index: Any) -> None:
    found, expected = whole.influences[index], whole.numpy()[index]
    assert np.shape(found) == np.shape(expected)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    "index", [np.s_[0], np.s_[:, 3], np.s_[1:3, ::50, 2], np.s_[..., -1], np.s_[[2, 0], 5]], ids=str
)
def test_a_slice_of_perturbations_is_what_numpy_gives(
    perturbation: InfluenceResult, index: Any
) -> None:
    np.testing.assert_array_equal(perturbation.influences[index], perturbation.numpy()[index])


@pytest.mark.parametrize("index", [np.s_[99], np.s_[0, 999], np.s_[[0, 99]]], ids=str)
def test_an_index_that_is_not_there_is_an_index_error(whole: InfluenceResult, index: Any) -> None:
    with pytest.raises(IndexError):
        whole.influences[index]


def test_json_and_npy_hold_the_same_numbers(http: httpx2.Client, whole: InfluenceResult) -> None:
    address = f"{path(whole)}/influences?test=0:3,-1&train=5:50:7"
    plain = http.get(address, headers=JSON).json()
    numbers = npy(http.get(address, headers=NPY))
    np.testing.assert_array_equal(np.array(plain["values"]), numbers)
    np.testing.assert_array_equal(numbers, whole.numpy()[[0, 1, 2, -1], 5:50:7])
    assert plain["test"] == [20, 21, 22, 3]
    assert plain["train"] == list(range(10, 100, 14))
    assert plain["shape"] == list(numbers.shape)


@pytest.mark.parametrize("sign", ["helpful", "harmful"])
@pytest.mark.parametrize("test", [0, 10, None])
def test_the_strongest_are_the_same_stored_or_computed(
    whole: InfluenceResult, matrix_only: InfluenceResult, sign: Any, test: int | None
) -> None:
    matrix = whole.numpy()
    values = matrix.mean(0) if test is None else matrix[test]
    columns = np.argsort(-values if sign == "helpful" else values, kind="stable")[:5]
    for result in (whole, matrix_only):
        items = result.top(test=test, k=5, sign=sign).items
        assert [item.column for item in items] == columns.tolist()
        assert [item.row for item in items] == (2 * columns).tolist()
        np.testing.assert_allclose([item.influence for item in items], values[columns], rtol=1e-12)


def test_the_mean_is_the_same_stored_or_computed(
    whole: InfluenceResult, matrix_only: InfluenceResult
) -> None:
    np.testing.assert_allclose(whole.mean(), whole.numpy().mean(0), rtol=1e-12)
    np.testing.assert_allclose(matrix_only.mean(), whole.mean(), rtol=1e-12)


def test_without_the_matrix_ranks_and_means_are_as_with_it(
    online: Client, iris: Subject, whole: InfluenceResult
) -> None:
    keep = {"matrix": False, "top": 5, "mean": True}
    lean = computed(online, iris, test_rows="20:30,3", train_rows="::2", keep=keep)
    one, other = (result.top(test=4, k=5).items for result in (lean, whole))
    assert [item.row for item in one] == [item.row for item in other]
    values = [[item.influence for item in items] for items in (one, other)]
    np.testing.assert_allclose(*values, rtol=1e-12)
    np.testing.assert_allclose(lean.mean(), whole.mean(), rtol=1e-12)
    assert not [file for file in lean.files().files if file.path.startswith("influences/")]
    with pytest.raises(errors.NotStored, match="matrix"):
        lean.influences[0]
    with pytest.raises(errors.NotStored, match=r"keep\.top"):
        lean.top(test=4, k=6)


def test_what_the_inversion_found_out_comes_with_the_result(online: Client, iris: Subject) -> None:
    result = online.compute_influence_factors(
        *iris.names, inversion_method="arnoldi", rank_estimate=6, precision="float64",
        hessian_regularization=iris.damping,
    )  # fmt: skip
    eigenvalues = result.info["eigenvalues"].numpy()
    vectors = result.info["eigenvectors"].numpy()
    undamped = iris.formula.damped.numpy() - iris.damping * np.eye(iris.size)
    largest = np.sort(np.linalg.eigvalsh(undamped))[::-1][:6]
    np.testing.assert_allclose(np.sort(eigenvalues)[::-1], largest, rtol=1e-6)
    columns = vectors if vectors.shape[0] == iris.size else vectors.T
    np.testing.assert_allclose(undamped @ columns, columns * eigenvalues, atol=1e-5)
    residuals = result.info["residual_norms"].numpy()
    assert residuals.shape == (len(iris.x_test),)
    assert result.job.info is not None
    assert result.job.info["worst_residual_norm"] == pytest.approx(residuals.max())


def test_the_hessian_of_direct_inversion_can_be_fetched_with_its_whole_spectrum(
    whole: InfluenceResult, iris: Subject
) -> None:
    stored = whole.info["hessian"].numpy()
    exact = iris.formula.damped.numpy()
    undamped = exact - iris.damping * np.eye(iris.size)
    assert min(np.abs(stored - exact).max(), np.abs(stored - undamped).max()) < 1e-12
    spectrum = np.linalg.eigvalsh(undamped)
    np.testing.assert_allclose(whole.info["eigenvalues"].numpy(), spectrum, rtol=1e-8, atol=1e-11)


def test_losses_and_predictions_are_those_of_the_model(
    http: httpx2.Client, whole: InfluenceResult, iris: Subject
) -> None:
    with torch.no_grad():
        outputs = iris.module(iris.x_train)
    losses = cross_entropy(outputs, iris.y_train, reduction="none").numpy()
    answer = http.get(f"{path(whole)}/rows", params={"side": "train", "sort": "-loss", "limit": 9})
    items = answer.json()["items"]
    chosen = np.arange(0, len(losses), 2)
    assert [item["row"] for item in items] == chosen[np.argsort(-losses[chosen])][:9].tolist()
    for item in items:
        assert item["loss"] == pytest.approx(losses[item["row"]], abs=1e-12)
        assert item["prediction"] == int(outputs[item["row"]].argmax())
        assert item["target"] == int(iris.y_train[item["row"]])
    test = http.get(f"{path(whole)}/rows", params={"rows": "-1"}).json()["items"][0]
    assert test["row"] == 3


def test_rows_of_a_dataset_are_those_registered(http: httpx2.Client, iris: Subject) -> None:
    answer = http.get(f"/v1/datasets/{iris.train}/rows", params={"rows": "3,100:105"}).json()
    assert answer["rows"] == [3, *range(100, 105)]
    np.testing.assert_array_equal(answer["columns"]["x"], iris.x_train[answer["rows"]])
    np.testing.assert_array_equal(answer["columns"]["y"], iris.y_train[answer["rows"]])


def test_every_file_has_the_size_and_digest_that_is_said(
    stored: Objects, whole: InfluenceResult
) -> None:
    prefix = ResultPaths("default", whole.id).prefix
    told = {file.path: (file.size_bytes, file.digest) for file in whole.files().files}
    found = {
        each.path.removeprefix(f"{prefix}/"): (
            each.size,
            f"sha256:{hashlib.sha256(stored.get(each.path)).hexdigest()}",
        )
        for each in stored.walk(prefix)
    }
    assert {name: told[name] for name in found if name != "manifest.json"} == {
        name: one for name, one in found.items() if name != "manifest.json"
    }
    assert set(told) <= set(found)


def test_parameters_are_listed_in_the_order_of_the_flat_vector(
    stored: Objects, iris: Subject, whole: InfluenceResult
) -> None:
    file = ResultPaths("default", whole.id).parameters
    parameters = json.loads(stored.get(file))["parameters"]
    expected, offset = [], 0
    for name, value in iris.module.named_parameters():
        expected.append({"name": name, "shape": list(value.shape), "offset": offset})
        offset += value.numel()
    assert parameters == expected
    exact = iris.formula.factors(iris.x_test[20:30], iris.y_test[20:30])
    np.testing.assert_allclose(whole.factors[:10], exact, rtol=1e-6, atol=1e-12)


def test_a_saved_result_holds_all_that_was_kept(whole: InfluenceResult, tmp_path: Path) -> None:
    with np.load(whole.save(tmp_path / "all.npz")) as saved:
        np.testing.assert_array_equal(saved["influences"], whole.numpy())
        np.testing.assert_array_equal(saved["mean"], whole.mean())
        np.testing.assert_array_equal(saved["factors"], whole.factors.numpy())
    np.testing.assert_array_equal(np.load(whole.save(tmp_path / "one.npy")), whole.numpy())
