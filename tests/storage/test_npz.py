"""npz archives: plain arrays are read, everything else is refused before memory is taken for it."""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.storage.npz import BadArchive, NpzFile

ARRAYS = {
    "x": np.random.default_rng(0).normal(size=(5, 2, 3)).astype("f4"),
    "y": np.arange(5),
    "flags": np.array([True, False]),
    "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "empty": np.empty((0, 4)),
}


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_come_back_as_they_were(tmp_path: Path, save: Any) -> None:
    save(tmp_path / "a.npz", **ARRAYS)
    file = NpzFile(tmp_path / "a.npz")
    for name, array in ARRAYS.items():
        assert file.entries[name].shape == array.shape
        assert np.array_equal(file.read(name), array)


def _npy(shape: str, data: bytes = b"", descr: str = "'<f4'") -> bytes:
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + data


def _archive(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


class Marks:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return (Path.touch, (self.marker,))


def test_an_object_array_is_refused_and_its_pickle_never_runs(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    np.savez(tmp_path / "a.npz", x=np.array([Marks(marker)], dtype=object))
    with pytest.raises(BadArchive, match="pickle"):
        NpzFile(tmp_path / "a.npz")
    assert not marker.exists()
    # That the archive would have run it: the control without which this test could not fail.
    with pytest.raises(TypeError), np.load(tmp_path / "a.npz", allow_pickle=True) as loaded:
        len(loaded["x"][0])
    assert marker.exists()


@pytest.mark.parametrize(
    ("member", "words"),
    [
        (_npy("(1000000000000, 1000)"), "holds 0 bytes"),
        (_npy("(2,)", b"1234"), "holds 4 bytes"),
        (_npy("(-2,)", b"1234"), "claims shape"),
        (b"no array at all", "not a plain NumPy array"),
        (b"", "not a plain NumPy array"),
        (_npy("(2,)", b"", "[('a', '|O')]"), "pickle"),
        (_npy("(__import__('os').getpid(),)"), "not a plain NumPy array"),
        (pickle.dumps({"x": 1}), "not a plain NumPy array"),
    ],
)
def test_a_member_that_is_not_what_it_claims_is_refused(
    tmp_path: Path, member: bytes, words: str
) -> None:
    with pytest.raises(BadArchive, match=words):
        NpzFile(_archive(tmp_path / "a.npz", {"x.npy": member}))


def test_a_bomb_is_refused_by_its_ratio(tmp_path: Path) -> None:
    path = _archive(tmp_path / "a.npz", {"x.npy": _npy("(50000000,)", bytes(200_000_000))})
    with pytest.raises(BadArchive, match="unpack"):
        NpzFile(path)


def test_members_that_are_no_arrays_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadArchive, match=r"\.\./evil"):
        NpzFile(_archive(tmp_path / "a.npz", {"../evil": b"x"}))


def test_a_truncated_archive_is_refused(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, **ARRAYS)
    (tmp_path / "a.npz").write_bytes(buffer.getvalue()[:-30])
    with pytest.raises(BadArchive, match="truncated"):
        NpzFile(tmp_path / "a.npz")


def test_damaged_bytes_are_noticed(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.zeros(1000))
    damaged = bytearray((tmp_path / "a.npz").read_bytes())
    damaged[4000] ^= 1
    (tmp_path / "a.npz").write_bytes(damaged)
    with pytest.raises(BadArchive, match="damaged"):
        NpzFile(tmp_path / "a.npz").read("x")
