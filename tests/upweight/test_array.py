"""Arrays at the service: what numpy gives for an index, with no more sent than that."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest

from tests.upweight import records
from tests.upweight.local_server import Answer, Asked, Handler, Server, answer, cut, problem
from upweight import Client, InfluenceResult, RemoteArray, UnexpectedAnswer, errors
from upweight.schema import parse_rows

ARRAY = np.arange(7 * 50 * 3, dtype=np.float32).reshape(7, 50, 3)
PATH = f"/v1/jobs/{records.JOB}/influences"


def npy(array: np.ndarray[Any, Any]) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def sliced(array: np.ndarray[Any, Any]) -> Answer:
    """What the service does: `test` and `train` are rows of positions."""

    def give(handler: Handler, asked: Asked) -> None:
        query = dict(asked.query)
        rows = list(parse_rows(query.get("test"), array.shape[0]))
        columns = list(parse_rows(query.get("train"), array.shape[1]))
        body = npy(array[np.ix_(rows, columns)])
        answer(200, body, Content_Type="application/x-npy")(handler, asked)

    return give


@pytest.fixture
def result(server: Server, client: Client) -> InfluenceResult:
    shape = list(ARRAY.shape)
    server.on("GET", f"/v1/jobs/{records.JOB}", answer(200, records.influences(shape)))
    server.on("GET", PATH, sliced(ARRAY))
    found = client.jobs.result(records.JOB)
    assert isinstance(found, InfluenceResult)
    server.asked.clear()
    return found


INDICES = [
    np.s_[0],
    np.s_[-1],
    np.s_[3:5, ::10],
    np.s_[..., 1],
    np.s_[...],
    np.s_[:],
    np.s_[2, 7],
    np.s_[2, -1, 0],
    np.s_[::-1, 5:2:-1],
    np.s_[4:2],
    np.s_[:, 60:],
    np.s_[[3, 1, 1]],
    np.s_[0, [5, 4, 49]],
    np.s_[[1, 2], [3, 4]],
    np.s_[0, :, [1, 2]],
    np.s_[[]],
    np.s_[np.arange(7) % 2 == 0, :4],
    np.s_[np.int64(3), np.array([-1, 0])],
    (),
]


@pytest.mark.parametrize("index", INDICES, ids=str)
def test_every_index_gives_what_numpy_gives(result: InfluenceResult, index: Any) -> None:
    got = np.asarray(result.influences[index])
    assert got.shape == ARRAY[index].shape
    np.testing.assert_array_equal(got, ARRAY[index])


@pytest.mark.parametrize("index", [7, -8, (0, 50), (0, 0, 0, 0), None, "x", 1.5, ([9],)])
def test_a_bad_index_is_refused_without_a_request(
    server: Server, result: InfluenceResult, index: Any
) -> None:
    with pytest.raises(IndexError):
        result.influences[index]
    assert server.asked == []


def test_only_the_rows_asked_for_are_sent(server: Server, result: InfluenceResult) -> None:
    result.influences[3:5, ::10]
    assert server.asked[0].query == [("test", "3:5"), ("train", "0:41:10")]
    assert server.asked[0].headers["accept"] == "application/x-npy"


def test_an_empty_slice_asks_for_nothing(server: Server, result: InfluenceResult) -> None:
    assert result.influences[0:0].shape == (0, 50, 3)
    assert server.asked == []


def test_many_scattered_rows_are_fetched_in_several_requests(
    server: Server, client: Client
) -> None:
    tall = np.arange(9000.0).reshape(9000, 1)
    shape = list(tall.shape)
    stored = records.influences(shape, dtype="float64")
    server.on("GET", f"/v1/jobs/{records.JOB}", answer(200, stored))
    server.on("GET", PATH, sliced(tall))
    rows = list(range(0, 9000, 3))[::-1]
    array = client.jobs.result(records.JOB).influences  # type: ignore[attr-defined]
    np.testing.assert_array_equal(array[rows], tall[rows])
    assert len(server.asked) > 2
    assert all(len(dict(asked.query).get("test", "")) < 4100 for asked in server.asked)


def test_numpy_takes_the_whole_array(result: InfluenceResult) -> None:
    assert isinstance(result.influences, RemoteArray)
    np.testing.assert_array_equal(np.asarray(result.influences), ARRAY)
    np.testing.assert_array_equal(result.numpy(), ARRAY)
    assert np.asarray(result.influences, dtype=np.float64).dtype == np.float64


def test_shape_and_type_are_known_without_fetching(server: Server, result: InfluenceResult) -> None:
    array = result.influences
    assert (array.shape, array.dtype, array.ndim, len(array)) == ((7, 50, 3), np.float32, 3, 7)
    assert (array.size, array.nbytes, result.shape) == (1050, 4200, (7, 50, 3))
    assert "7, 50, 3" in repr(array)
    assert server.asked == []


def test_iterating_fetches_many_rows_at_a_time(server: Server, result: InfluenceResult) -> None:
    np.testing.assert_array_equal(np.stack(list(result.influences)), ARRAY)
    assert len(server.asked) == 1


def test_an_array_cut_midway_is_fetched_again(server: Server, result: InfluenceResult) -> None:
    body = npy(ARRAY)
    server.on("GET", PATH, cut(body, 400), cut(body, 3), answer(200, body))
    np.testing.assert_array_equal(result.influences[...], ARRAY)


def test_fortran_order_and_version_two_are_read(server: Server, result: InfluenceResult) -> None:
    file = io.BytesIO()
    np.lib.format.write_array(file, np.asfortranarray(ARRAY), version=(2, 0))
    server.on("GET", PATH, answer(200, file.getvalue()))
    np.testing.assert_array_equal(result.influences[...], ARRAY)


@pytest.mark.parametrize(
    "body",
    [
        b"<html>no array at all</html>",
        npy(ARRAY) + b"more",
        npy(ARRAY)[:200],
        npy(np.zeros((2, 2), np.float32)),
        b"",
    ],
    ids=["html", "longer", "shorter", "other shape", "empty"],
)
def test_what_is_not_that_array_is_refused(
    server: Server, result: InfluenceResult, body: bytes
) -> None:
    server.on("GET", PATH, answer(200, body))
    with pytest.raises(UnexpectedAnswer):
        result.influences[...]


def test_pickled_objects_are_never_loaded(server: Server, result: InfluenceResult) -> None:
    server.on("GET", PATH, answer(200, npy(np.array([{"a": 1}], dtype=object))))
    with pytest.raises(UnexpectedAnswer, match="never loaded"):
        result.influences[...]


def test_a_refusal_is_raised_as_its_class(server: Server, result: InfluenceResult) -> None:
    server.on("GET", PATH, problem(404, "not-stored", "gone"))
    with pytest.raises(errors.NotStored):
        result.influences[0]
