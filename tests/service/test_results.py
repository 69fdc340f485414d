"""Results by slices: the right numbers, in the format asked for, with the dataset's own row numbers."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import httpx2
import numpy as np
import pytest

from service.storage.layout import ResultPaths
from tests.service.acting import NAMESPACE, Acting, field, problem
from upweight.errors import ComputationFailed

NPY = {"Accept": "application/x-npy"}
M, N = 10, 50
MATRIX = np.random.default_rng(0).normal(size=(M, N)).astype(np.float32)
Get = Callable[..., httpx2.Response]


def npy(answer: httpx2.Response) -> np.ndarray[Any, Any]:
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/x-npy"
    assert int(answer.headers["content-length"]) == len(answer.content)
    loaded: np.ndarray[Any, Any] = np.load(io.BytesIO(answer.content), allow_pickle=False)
    return loaded


def result_of(acting: Acting, request: dict[str, Any] | None = None, **arrays: Any) -> Get:
    """Stores a result; answers a function that gets its parts."""
    acting.ready()
    id = acting.job(**(request or {}))["id"]
    acting.succeed(id, **arrays)

    def get(part: str, headers: dict[str, str] | None = None, **parameters: Any) -> httpx2.Response:
        return acting.client.get(f"/v1/jobs/{id}/{part}", params=parameters, headers=headers)

    return get


@pytest.fixture
def get(acting: Acting) -> Get:
    return result_of(acting, matrix=MATRIX)


def test_the_whole_matrix_is_the_matrix(get: Get) -> None:
    assert np.array_equal(npy(get("influences", NPY)), MATRIX)


def test_slices_are_taken_by_position(get: Get) -> None:
    for test, train, expected in (
        ("3", "7", MATRIX[3:4, 7:8]),
        ("2:5", "::10", MATRIX[2:5, ::10]),
        ("9,0,0", "40:", MATRIX[[9, 0, 0], 40:]),
        ("-1", "1,3:6", MATRIX[[-1]][:, [1, 3, 4, 5]]),
        ("5:5", "0:3", MATRIX[5:5, 0:3]),
    ):
        assert np.array_equal(npy(get("influences", NPY, test=test, train=train)), expected)


def test_json_tells_the_rows_of_the_datasets(acting: Acting) -> None:
    request = {
        "train": {"dataset": "train", "rows": "10:30:2"},
        "test": {"dataset": "test", "rows": "5,1"},
    }
    matrix = MATRIX[:2, :10]
    get = result_of(acting, request, matrix=matrix)
    answer = get("influences", test="1", train="2:4").json()
    assert answer["test"] == [1]
    assert answer["train"] == [14, 16]
    assert answer["shape"] == [1, 2]
    assert np.allclose(answer["values"], matrix[1:2, 2:4])
    best = get("top", test=0, k=1).json()["items"][0]
    assert best["row"] == 10 + 2 * best["column"]


def test_many_numbers_are_not_given_as_json(get: Get) -> None:
    said = problem(get("influences"), 406, "not-acceptable")["detail"]
    assert "application/x-npy" in said
    assert get("influences", test="0:1").status_code == 200
    both = {"Accept": "application/json, application/x-npy"}
    assert np.array_equal(npy(get("influences", both)), MATRIX)


def test_an_unknown_format_names_those_that_are_known(get: Get) -> None:
    said = problem(get("influences", {"Accept": "text/csv"}), 406, "not-acceptable")["detail"]
    assert "application/json" in said


def test_nan_leaves_json_as_null(acting: Acting) -> None:
    matrix = MATRIX.copy()
    matrix[0, 1], matrix[0, 2] = np.nan, np.inf
    get = result_of(acting, matrix=matrix)
    values = get("influences", test="0", train="0:4").json()["values"][0]
    assert values[1] is None
    assert values[2] is None
    columns = [item["column"] for item in get("top", test=0, k=50).json()["items"]]
    assert len(columns) == 48
    assert not {1, 2} & set(columns)


def test_positions_that_are_not_there_are_refused(get: Get) -> None:
    assert "there are 10 rows" in field(get("influences", test="10"), "query:test")
    assert "is not a row or a slice" in field(get("influences", train="a"), "query:train")
    everything = ",".join(["0:50"] * 1000)
    assert get("influences", NPY, train=everything, test="0").status_code == 200
    assert field(get("top", test=10), "query:test")
    assert field(get("top", k=0), "query:k")


def test_the_top_is_found_in_the_matrix(get: Get) -> None:
    for sign, order in (("helpful", np.argsort(-MATRIX[3])), ("harmful", np.argsort(MATRIX[3]))):
        items = get("top", test=3, k=5, sign=sign).json()["items"]
        assert [item["column"] for item in items] == order[:5].tolist()
        assert np.allclose([item["influence"] for item in items], MATRIX[3][order[:5]])
    assert len(get("top", test=3, k=500).json()["items"]) == N


def test_without_a_test_row_the_top_is_by_the_mean(get: Get) -> None:
    answer = get("top", k=3).json()
    assert answer["test"] is None
    expected = np.argsort(-MATRIX.mean(axis=0))[:3]
    assert [item["column"] for item in answer["items"]] == expected.tolist()


def test_equal_influences_are_ordered_by_column(acting: Acting) -> None:
    get = result_of(acting, matrix=np.zeros((M, N), np.float32))
    items = get("top", test=0, k=4).json()["items"]
    assert [item["column"] for item in items] == [0, 1, 2, 3]


def kept_top(k: int) -> dict[str, np.ndarray[Any, Any]]:
    helpful, harmful = np.argsort(-MATRIX)[:, :k], np.argsort(MATRIX)[:, :k]
    return {
        "helpful_columns": helpful,
        "helpful_values": np.take_along_axis(MATRIX, helpful, 1),
        "harmful_columns": harmful,
        "harmful_values": np.take_along_axis(MATRIX, harmful, 1),
    }


def test_the_top_that_was_kept_is_enough(acting: Acting) -> None:
    get = result_of(acting, top=kept_top(5), shape=[M, N])
    items = get("top", test=2, k=3, sign="harmful").json()["items"]
    assert [item["column"] for item in items] == np.argsort(MATRIX[2])[:3].tolist()
    said = problem(get("top", test=2, k=6), 404, "not-stored")["detail"]
    assert "kept the 5 strongest" in said
    problem(get("influences"), 404, "not-stored")
    problem(get("top"), 404, "not-stored")


def test_the_mean_is_what_was_kept_or_comes_from_the_matrix(acting: Acting, get: Get) -> None:
    assert np.allclose(npy(get("mean", NPY)), MATRIX.mean(axis=0), atol=1e-6)
    assert len(get("mean").json()) == N
    kept = result_of(acting, mean=np.arange(N, dtype=np.float32), shape=[M, N])
    assert np.array_equal(npy(kept("mean", NPY)), np.arange(N))
    assert kept("top", k=1).json()["items"][0]["column"] == N - 1


def test_factors_are_read_by_rows(acting: Acting) -> None:
    factors = np.random.default_rng(1).normal(size=(M, 700))
    get = result_of(acting, factors=factors)
    assert np.array_equal(npy(get("factors", NPY)), factors)
    assert np.array_equal(npy(get("factors", NPY, rows="7,2:4")), factors[[7, 2, 3]])
    problem(get("mean"), 404, "not-stored")


def test_the_info_lists_its_arrays_and_gives_them_by_name(acting: Acting) -> None:
    arrays = {"residual_norms": np.arange(M, dtype=np.float64), "scale": np.array(3.0)}
    get = result_of(acting, info=arrays, mean=np.ones(N, np.float32))
    answer = get("info").json()
    assert answer["method"] == "cg"
    assert answer["summary"] == {"iterations": 7}
    assert [array["name"] for array in answer["arrays"]] == ["residual_norms", "scale"]
    assert np.array_equal(npy(get("info", array="residual_norms")), arrays["residual_norms"])
    assert npy(get("info", array="scale")).shape == ()
    said = problem(get("info", array="hessian"), 404, "not-stored")["detail"]
    assert "residual_norms" in said


def test_files_are_listed_below_the_result(get: Get) -> None:
    paths = [file["path"] for file in get("files").json()["files"]]
    assert "manifest.json" in paths
    assert any(path.startswith("influences/") for path in paths)
    assert not any("results/" in path for path in paths)


def test_what_a_result_was_merged_from_is_not_listed(acting: Acting) -> None:
    """It lies there for a moment after the job has succeeded."""
    acting.ready()
    id = acting.job()["id"]
    acting.succeed(id, matrix=MATRIX)
    path = f"/v1/jobs/{id}/files"
    before = acting.client.get(path).json()
    left = f"{ResultPaths(NAMESPACE, id).parts}/0.safetensors"
    assert acting.parts.objects.put_new(left, b"of a block")
    assert acting.client.get(path).json() == before


def test_a_result_that_is_not_there_yet_says_when_to_come_again(acting: Acting) -> None:
    acting.ready()
    id = acting.job()["id"]
    answer = acting.client.get(f"/v1/jobs/{id}/influences")
    problem(answer, 425, "result-not-ready")
    assert answer.headers["retry-after"] == "1"
    acting.fail(id, ComputationFailed("singular"))
    answer = acting.client.get(f"/v1/jobs/{id}/influences")
    assert "singular" in problem(answer, 425, "result-not-ready")["detail"]
    assert "retry-after" not in answer.headers


def test_influences_with_a_direction_are_sliced_by_their_first_two_axes(acting: Acting) -> None:
    matrix = np.random.default_rng(2).normal(size=(M, N, 2, 2)).astype(np.float32)
    get = result_of(acting, matrix=matrix)
    assert np.array_equal(
        npy(get("influences", NPY, test="1:3", train="5,6")), matrix[1:3][:, [5, 6]]
    )
    problem(get("top", test=0), 404, "not-stored")
