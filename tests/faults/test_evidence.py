"""What a chaotic run tells of a result that is not as it must be."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from tests.faults.chaos.evidence import differences


def result(folder: Path, factor: float) -> Path:
    chunk = folder / "influences" / "c" / "0"
    chunk.mkdir(parents=True)
    (folder / "influences" / "zarr.json").write_text(json.dumps({"data_type": "float64"}))
    (chunk / "0").write_bytes(np.array([1.0, 2.0, np.nan, 4.0 * factor]).tobytes())
    save_file({"x": np.array([1.0, 2.0])}, folder / "info")
    (folder / "manifest.json").write_text(str(factor))
    return folder


def test_equal_results_have_no_differences_whatever_their_manifests_say(tmp_path: Path) -> None:
    one, other = result(tmp_path / "a", 1.0), result(tmp_path / "b", 1.0)
    (other / "manifest.json").write_text("by another worker")
    assert differences(one, other) == {}


def test_the_largest_difference_is_told_by_object(tmp_path: Path) -> None:
    found = differences(result(tmp_path / "a", 1.25), result(tmp_path / "b", 1.0))
    assert found == {
        "influences/c/0/0": "chunk: 1 of 4 differ, at most by 0.25 of the largest, 0 NaN"
    }
