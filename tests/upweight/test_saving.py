"""Results into files and tables."""

from __future__ import annotations

import asyncio
import errno
import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file

from tests.upweight import records
from tests.upweight.local_server import Server, answer
from upweight import AsyncClient, Client, errors
from upweight.results import saving

PATH = f"/v1/jobs/{records.JOB}"
MATRIX = (np.arange(6, dtype=np.float32).reshape(2, 3) / 7) - 0.3
LONG = pd.DataFrame(
    {"test": [5, 5, 5, 7, 7, 7], "train": [0, 2, 4, 0, 2, 4], "influence": MATRIX.ravel()}
)


def npy(array: np.ndarray[Any, Any]) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def stored(server: Server, matrix: Any = MATRIX) -> None:
    """A job over some rows of its datasets, as the service answers it."""
    record = records.influences(list(matrix.shape), "matrix", "mean")
    record["request"]["train"]["rows"] = "::2"
    record["request"]["test"]["rows"] = "5,-1"
    record["test_id"] = records.DATASET
    server.on("GET", PATH, answer(200, record))
    server.on("GET", f"{PATH}/influences", answer(200, npy(matrix)))
    server.on("GET", f"{PATH}/mean", answer(200, npy(matrix.mean(0))))
    train = answer(200, records.dataset(rows=6))
    test = answer(200, records.dataset(rows=8))
    server.on("GET", f"/v1/datasets/{records.DATASET}", train, test, train, test)


@pytest.fixture
def result(server: Server, client: Client) -> Any:
    stored(server)
    return client.jobs.result(records.JOB)


def test_the_ending_chooses_the_format(result: Any, tmp_path: Path) -> None:
    np.testing.assert_array_equal(np.load(result.save(tmp_path / "r.npy")), MATRIX)
    with np.load(result.save(tmp_path / "r.npz")) as saved:
        assert set(saved) == {"influences", "mean"}
        np.testing.assert_array_equal(saved["mean"], MATRIX.mean(0))
    tensors = load_file(result.save(tmp_path / "r.safetensors"))
    np.testing.assert_array_equal(tensors["influences"], MATRIX)
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == ["r.npy", "r.npz", "r.safetensors"]


@pytest.mark.parametrize("block", [4, 1 << 16])
@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_tables_name_the_datasets_rows_and_keep_every_digit(
    result: Any, tmp_path: Path, ending: str, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(saving, "BLOCK", block)
    path = result.save(tmp_path / f"r.{ending}")
    readers = {"csv": lambda: pd.read_csv(path, dtype={"influence": np.float32}),
               "parquet": lambda: pq.read_table(path).to_pandas()}  # fmt: skip
    read = readers[ending]()
    pd.testing.assert_frame_equal(read, LONG)


def test_a_wide_table_has_a_line_a_test_row_and_a_column_a_training_row(
    result: Any, tmp_path: Path
) -> None:
    read = pd.read_csv(result.save(tmp_path / "wide.csv", wide=True), index_col="test")
    assert (read.index.tolist(), read.columns.tolist()) == ([5, 7], ["0", "2", "4"])
    np.testing.assert_array_equal(read.to_numpy(np.float32), MATRIX)
    with pytest.raises(ValueError, match=r"wide=True is for \.csv"):
        result.save(tmp_path / "wide.npy", wide=True)


def test_another_array_can_be_saved(result: Any, tmp_path: Path) -> None:
    read = pd.read_csv(result.save(tmp_path / "mean.csv", "mean"))
    assert read["train"].tolist() == [0, 2, 4]
    np.testing.assert_allclose(read["influence"], MATRIX.mean(0), rtol=1e-6)
    with pytest.raises(errors.NotStored, match="did not keep its factors, but matrix, mean"):
        result.save(tmp_path / "factors.npy", "factors")
    with pytest.raises(errors.InvalidRequest, match="no array 'means'"):
        result.save(tmp_path / "means.npy", "means")


def test_a_frame_has_the_datasets_rows_as_labels(result: Any) -> None:
    frame = result.to_pandas()
    assert (frame.index.tolist(), frame.columns.tolist()) == ([5, 7], [0, 2, 4])
    assert (frame.index.name, frame.columns.name) == ("test", "train")
    np.testing.assert_array_equal(frame, MATRIX)
    assert result.to_pandas("mean").index.tolist() == [0, 2, 4]


def test_an_arrow_table_has_a_row_a_number(result: Any) -> None:
    pd.testing.assert_frame_equal(result.to_arrow().to_pandas(), LONG)


def test_perturbations_have_a_column_for_the_feature(server: Server, client: Client) -> None:
    matrix = np.arange(24, dtype=np.float32).reshape(2, 3, 2, 2)
    stored(server, matrix)
    result: Any = client.jobs.result(records.JOB)
    frame = result.to_pandas()
    assert frame.loc[(7, 4)].tolist() == matrix[1, 2].ravel().tolist()
    stored(server, matrix)
    long = client.jobs.result(records.JOB).to_arrow().to_pandas()
    assert long.columns.tolist() == ["test", "train", "feature", "influence"]
    assert long.iloc[-1].tolist() == [7, 4, 3, 23]


def test_a_slice_of_an_array_is_saved_as_the_whole_is(result: Any, tmp_path: Path) -> None:
    read = pd.read_csv(result.influences.save(tmp_path / "r.csv"))
    assert read.columns.tolist() == ["test", "train", "value"]


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("r.xlsx", ValueError, r"\.npy, \.npz.*\.parquet; 'r\.xlsx'"),
        ("nowhere/r.npy", FileNotFoundError, "make it first"),
        (".", ValueError, "none of these"),
    ],
)
def test_a_path_that_can_not_be_written_is_refused_before_anything_is_fetched(
    server: Server, result: Any, tmp_path: Path, name: str, error: Any, words: str
) -> None:
    with pytest.raises(error, match=words):
        result.save(tmp_path / name)
    assert f"{PATH}/influences" not in [asked.path for asked in server.asked]


def test_what_is_not_installed_is_named_with_its_extra(
    result: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("pandas", "pyarrow"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=r"pip install 'upweight\[pandas\]'"):
        result.to_pandas()
    with pytest.raises(errors.UpweightError, match=r"upweight\[arrow\]"):
        result.to_arrow()
    with pytest.raises(errors.UpweightError, match=r"upweight\[arrow\]"):
        result.save(tmp_path / "r.parquet")


def test_a_fetch_that_fails_leaves_the_file_as_it_was(
    server: Server, result: Any, tmp_path: Path
) -> None:
    path = tmp_path / "r.csv"
    path.write_text("as it was")
    server.on("GET", f"{PATH}/influences", answer(200, npy(MATRIX)[:-3]))
    with pytest.raises(ValueError):  # noqa: PT011 - whatever the reader says of the torn array
        result.save(path)
    assert path.read_text() == "as it was"
    assert [each.name for each in tmp_path.iterdir()] == ["r.csv"]


def test_the_awaited_result_does_the_same(server: Server, tmp_path: Path) -> None:
    stored(server)

    async def work() -> Any:
        async with AsyncClient(server.url) as client:
            result = await client.jobs.result(records.JOB)
            await result.save(tmp_path / "r.parquet")
            stored(server)
            frame = await result.to_pandas()
            stored(server)
            return frame, await result.to_arrow()

    frame, arrow = asyncio.run(work())
    np.testing.assert_array_equal(frame, MATRIX)
    for long in (arrow.to_pandas(), pq.read_table(tmp_path / "r.parquet").to_pandas()):
        pd.testing.assert_frame_equal(long, LONG)


def test_the_mean_is_taken_of_a_matrix_that_was_kept_alone(
    server: Server, client: Client, tmp_path: Path
) -> None:
    stored(server)
    server.on("GET", PATH, answer(200, records.influences([2, 3], "matrix")))
    result = client.jobs.result(records.JOB)
    np.testing.assert_array_equal(np.load(result.save(tmp_path / "m.npy", "mean")), MATRIX.mean(0))
    with pytest.raises(errors.NotStored, match=r"did not keep its factors, but matrix.*keep="):
        result.save(tmp_path / "f.npy", "factors")


def test_a_full_disk_is_told_with_the_path_and_what_is_needed(
    result: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, members: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setitem(saving.ALL, ".npz", full)
    with pytest.raises(OSError, match=r"no room for it: some 72 bytes are needed.*r\.npz"):
        result.save(tmp_path / "r.npz")
    assert list(tmp_path.iterdir()) == []
