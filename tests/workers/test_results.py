"""What a job stores: whole chunks whatever the blocks, rankings independent of blocks, digests that are true."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from service.results.layout import ResultPaths
from service.storage.chunks import Chunks
from service.storage.objects import Objects
from upweight.errors import ComputationFailed
from workers import results
from workers.results import Ranking, ResultWriter


@pytest.mark.parametrize("shape", [(3, 50), (7, 50, 2, 3), (1, 1)])
@pytest.mark.parametrize("width", [1, 7, 16, 64])
def test_the_matrix_is_the_same_whatever_the_width_of_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...], width: int
) -> None:
    monkeypatch.setattr(results, "CHUNK_BYTES", 400)
    monkeypatch.setattr(results, "CHUNK_ROWS", 2)
    objects, paths = Objects(str(tmp_path)), ResultPaths("ns", "job_x")
    matrix = torch.randn(shape)
    writer = ResultWriter(objects, paths)
    target = writer.matrix(shape, "float32")
    for start in range(0, shape[1], width):
        target.write(matrix[:, start : start + width])
    target.close()
    writer.commit([], {})
    stored = Chunks.open(objects, paths.influences)
    read = np.concatenate(list(stored.blocks(range(shape[0]), range(shape[1]), 10**6)))
    assert np.array_equal(read, matrix.numpy())
    manifest = json.loads(objects.get(paths.manifest))
    assert manifest["stored"] == ["matrix"]
    for file in manifest["files"]:
        data = objects.get(f"{paths.prefix}/{file['path']}")
        assert file["digest"] == f"sha256:{hashlib.sha256(data).hexdigest()}", file["path"]
        assert file["size_bytes"] == len(data)


@settings(max_examples=60, deadline=None)
@given(
    values=st.lists(st.lists(st.integers(-3, 3), min_size=12, max_size=12), min_size=1, max_size=3),
    k=st.integers(1, 14),
    cuts=st.sets(st.integers(1, 11)),
)
def test_rankings_do_not_depend_on_blocks_and_ties_go_to_the_lower_column(
    values: list[list[int]], k: int, cuts: set[int]
) -> None:
    matrix = torch.tensor(values, dtype=torch.float32)
    ranking = Ranking(k)
    for start, stop in zip([0, *sorted(cuts)], [*sorted(cuts), 12], strict=True):
        ranking.add(start, matrix[:, start:stop])
    found = ranking.tensors()
    for row, numbers in enumerate(values):
        for name, sign in (("helpful", -1), ("harmful", 1)):
            expected = sorted(range(12), key=lambda column: (sign * numbers[column], column))[:k]
            assert found[f"{name}_columns"][row].tolist() == expected
            assert found[f"{name}_values"][row].tolist() == [numbers[column] for column in expected]


def test_a_result_with_nan_is_never_stored(tmp_path: Path) -> None:
    objects = Objects(str(tmp_path))
    writer = ResultWriter(objects, ResultPaths("ns", "job_x"))
    with pytest.raises(ComputationFailed, match="NaN"):
        writer.tensors(
            "factors", writer.paths.factors, {"factors": torch.tensor([[1.0, float("nan")]])}
        )
    assert list(objects.walk("")) == []
