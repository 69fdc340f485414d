"""An archive is checked as a whole, before anything in it is read."""

import stat
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.programs.tampering import GRAPH, members_of, with_member, write
from workers.programs.errors import (
    EXPORT_LINE,
    ArchiveInvalid,
    PickleRefused,
    ProgramError,
    TooLarge,
)
from workers.programs.limits import Limits
from workers.programs.pt2 import read_pt2

pytestmark = pytest.mark.filterwarnings("ignore")


def refusal(kind: type[ProgramError], path: Path, limits: Limits | None = None) -> str:
    with pytest.raises(kind) as caught:
        read_pt2(path, limits=limits)
    return caught.value.message


@pytest.mark.parametrize(
    "save",
    [
        lambda path: torch.save(nn.Linear(2, 2), path),
        lambda path: torch.save(nn.Linear(2, 2).state_dict(), path),
        lambda path: torch.save(nn.Linear(2, 2), path, _use_new_zipfile_serialization=False),
        lambda path: torch.jit.save(torch.jit.script(nn.Linear(2, 2)), path),
        lambda path: path.write_bytes(b"\x80\x04\x95anything"),
    ],
    ids=["module", "state_dict", "legacy", "torchscript", "pickle"],
)
def test_pickles_are_refused_with_the_line_that_exports(
    save: Callable[[Path], object], tmp_path: Path
) -> None:
    save(tmp_path / "model.pt")
    assert EXPORT_LINE in refusal(PickleRefused, tmp_path / "model.pt")


@pytest.mark.parametrize(
    "content",
    [b"", b"PK", b"PK\x03\x04", b"garbage" * 100, b"PK\x05\x06" + bytes(18), b"\x00" * 4096],
    ids=["empty", "two", "four", "garbage", "no entries", "zeros"],
)
def test_garbage_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "m.pt2").write_bytes(content)
    assert EXPORT_LINE in refusal(ArchiveInvalid, tmp_path / "m.pt2")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    refusal(ArchiveInvalid, tmp_path / "none.pt2")


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9, 0.999])
def test_truncated_archives_are_refused(kept: float, mlp: Path, tmp_path: Path) -> None:
    content = mlp.read_bytes()
    (tmp_path / "m.pt2").write_bytes(content[: int(len(content) * kept)])
    refusal(ArchiveInvalid, tmp_path / "m.pt2")


def test_damaged_weights_are_refused(mlp: Path, tmp_path: Path) -> None:
    content = bytearray(mlp.read_bytes())
    with zipfile.ZipFile(mlp) as zipped:
        info = next(i for i in zipped.infolist() if i.filename.endswith("weight_0"))
        with zipped.open(info):
            start = zipped.fp.tell()  # type: ignore[union-attr]
    content[start + 8] ^= 1
    (tmp_path / "m.pt2").write_bytes(content)
    assert "damaged" in refusal(ArchiveInvalid, tmp_path / "m.pt2")


def test_compressed_members_are_never_unpacked(mlp: Path, tmp_path: Path) -> None:
    bomb = {**members_of(mlp), "data/weights/weight_9": bytes(50_000_000)}
    path = write(tmp_path / "m.pt2", bomb, compression=zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 1_000_000
    assert "compressed" in refusal(ArchiveInvalid, path)


def test_overlapping_members_are_refused(tmp_path: Path, mlp: Path) -> None:
    content = mlp.read_bytes()
    end = content.rindex(b"PK\x05\x06")
    size, start = struct.unpack_from("<2L", content, end + 12)
    directory = content[start : start + size]
    first = directory[: directory.index(b"PK\x01\x02", 4)]
    doubled = first.replace(b"weight_0", b"weight_8") + directory
    counts = struct.unpack_from("<H", content, end + 10)[0] + 1
    tail = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, counts, counts, len(doubled), start, 0)
    (tmp_path / "m.pt2").write_bytes(content[:start] + doubled + tail)
    assert "overlaps" in refusal(ArchiveInvalid, tmp_path / "m.pt2")


def test_a_directory_of_millions_is_not_parsed(mlp: Path, tmp_path: Path) -> None:
    content = bytearray(mlp.read_bytes())
    end = content.rindex(b"PK\x05\x06")
    struct.pack_into("<L", content, end + 12, 0xFFFFFFF0)
    (tmp_path / "m.pt2").write_bytes(content)
    refusal(TooLarge, tmp_path / "m.pt2")


@pytest.mark.parametrize(
    "limits", [Limits(entries=3), Limits(archive_bytes=1000), Limits(name_bytes=8)]
)
def test_limits_hold(limits: Limits, mlp: Path) -> None:
    with pytest.raises((TooLarge, ArchiveInvalid)):
        read_pt2(mlp, limits=limits)


@pytest.mark.parametrize(
    "name",
    ["../../evil", "/abs", "a//b", "./a", "..", "a\\b", "data/weights/../../evil", "a\nb", "dir/"],
)
def test_paths_that_are_not_plain_are_refused(name: str, mlp: Path, tmp_path: Path) -> None:
    refusal(ArchiveInvalid, with_member(mlp, tmp_path / "m.pt2", name, b""))


def test_a_second_top_folder_is_refused(mlp: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.pt2"
    path.write_bytes(mlp.read_bytes())
    with zipfile.ZipFile(path, "a") as zipped:
        zipped.writestr(f"other/{GRAPH}", b"{}")
    assert "top folders" in refusal(ArchiveInvalid, path)


def test_an_archive_of_an_older_torch_is_refused_with_the_versions_that_do(tmp_path: Path) -> None:
    path = tmp_path / "m.pt2"
    with zipfile.ZipFile(path, "w") as zipped:
        for name in ("serialized_exported_program.json", "serialized_state_dict.pt", "version"):
            zipped.writestr(name, b"8.7")
    assert "torch 2.9 to 2.15" in refusal(ArchiveInvalid, path)


def test_duplicate_members_are_refused(mlp: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "m.pt2", members_of(mlp))
    with warnings.catch_warnings(), zipfile.ZipFile(path, "a") as zipped:
        warnings.simplefilter("ignore")
        zipped.writestr(f"model/{GRAPH}", b"{}")
    assert "twice" in refusal(ArchiveInvalid, path)


def test_symbolic_links_are_refused(mlp: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "m.pt2", members_of(mlp))
    link = zipfile.ZipInfo("model/data/weights/weight_7")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(path, "a") as zipped:
        zipped.writestr(link, b"/etc/passwd")
    assert "link" in refusal(ArchiveInvalid, path)


def test_encrypted_members_are_refused(mlp: Path, tmp_path: Path) -> None:
    content = bytearray(mlp.read_bytes())
    entry = content.rindex(b"PK\x01\x02")
    struct.pack_into("<H", content, entry + 8, 1)
    (tmp_path / "m.pt2").write_bytes(content)
    assert "encrypted" in refusal(ArchiveInvalid, tmp_path / "m.pt2")


@pytest.mark.parametrize("member", [GRAPH, "byteorder", "archive_version"])
def test_missing_members_are_named(member: str, mlp: Path, tmp_path: Path) -> None:
    members = members_of(mlp)
    del members[member]
    assert member in refusal(ArchiveInvalid, write(tmp_path / "m.pt2", members))


def test_other_byte_orders_are_refused(mlp: Path, tmp_path: Path) -> None:
    refusal(ArchiveInvalid, with_member(mlp, tmp_path / "m.pt2", "byteorder", b"big"))


def test_deep_json_is_refused(mlp: Path, tmp_path: Path) -> None:
    with pytest.raises(ProgramError):
        read_pt2(with_member(mlp, tmp_path / "m.pt2", GRAPH, b"[" * 1_000_000))
