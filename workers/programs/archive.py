"""The zip that `torch.export.save` writes, checked as a whole before any member is read.

Members are stored, never compressed, as torch writes them: so nothing can unpack to more than the
file itself, and no decompressor sees a user's bytes.
"""

import re
import stat
import struct
import zipfile
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from upweight.export.example_rows import MEMBER
from workers.programs.errors import EXPORT_LINE, TORCH, ArchiveInvalid, TooLarge
from workers.programs.limits import Limits
from workers.programs.pickles import refuse_bare_pickle, refuse_pickled_archive

GRAPH = "models/model.json"
WEIGHTS_CONFIG = "data/weights/model_weights_config.json"
EXAMPLE = f"extra/{MEMBER}"
CONSTANTS_CONFIG = "data/constants/model_constants_config.json"

_REQUIRED = frozenset(
    {GRAPH, WEIGHTS_CONFIG, CONSTANTS_CONFIG, "archive_format", "archive_version", "byteorder"}
)
# `sample_inputs` is a pickle which torch always writes; `extra` is whatever the user added. Neither is ever opened,
# but for the example's rows that our SDK puts into `extra`.
_EXPECTED = re.compile(
    r"archive_format|archive_version|byteorder|\.data/(?:version|serialization_id)"
    r"|models/model\.json"
    r"|data/weights/(?:weight_\d{1,9}|model_weights_config\.json)"
    r"|data/constants/(?:tensor_\d{1,9}|model_constants_config\.json)"
    r"|data/sample_inputs/model\.pt"
    r"|extra/.+"
)
_MARKERS = {"archive_format": b"pt2", "archive_version": b"0", "byteorder": b"little"}
_REFUSED = {
    "data/aotinductor/": "compiled code (AOTInductor); export without compiling",
    "data/executorch/": "an ExecuTorch program; save the exported program itself",
    "data/constants/custom_obj_": "a pickled object; models may hold tensors only",
    "data/constants/opaque_obj_": "a pickled object; models may hold tensors only",
    "data/weights/model.pt": f"pickled weights of an older torch; export again with {TORCH}",
    "data/constants/model.pt": f"pickled constants of an older torch; export again with {TORCH}",
    "models/": "a second model; save one model to a file",
}
_BEFORE_FOLDERS = "serialized_exported_program.json"  # of the older layout
_SIGNATURE = b"PK\x03\x04"
_END = struct.Struct("<4s4H2LH")
_END_SIGNATURE = b"PK\x05\x06"
_LOCAL_HEADER_BYTES = 30
_DIRECTORY_ENTRY_BYTES = 46
_UNKNOWN_32 = 0xFFFFFFFF
_ENCRYPTED = 0x1


class Archive:
    """An open archive, all of whose entries passed; `read` gives a member's bytes."""

    def __init__(self, path: Path, limits: Limits) -> None:
        self._limits = limits
        self._file_bytes = _file_bytes(path, limits)
        refuse_bare_pickle(path)
        _check_frame(path, self._file_bytes, limits)
        try:
            self._zip = zipfile.ZipFile(path)
        except Exception as exc:
            raise _broken() from exc
        try:
            self._members = self._checked_members()
            self._check_markers()
        except BaseException:
            self._zip.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._zip.close()

    def __contains__(self, member: str) -> bool:
        return member in self._members

    def size(self, member: str) -> int:
        """The member's bytes, as the directory says and `read` will find."""
        return self._members[member].file_size

    def read(self, member: str, limit: int) -> bytearray:
        """The member's bytes, its checksum verified; refused above `limit` bytes."""
        info = self._members[member]
        if info.file_size > limit:
            raise TooLarge(f"{member} has {info.file_size} bytes; the limit is {limit}")
        content = bytearray(info.file_size)
        try:
            with self._zip.open(info) as stream:
                filled = _fill(stream, content)
        except Exception as exc:
            raise ArchiveInvalid(f"{member} is damaged ({exc}); upload the file again") from exc
        if filled != len(content):
            raise ArchiveInvalid(f"{member} is cut short; upload the file again")
        return content

    def _checked_members(self) -> dict[str, zipfile.ZipInfo]:
        infos = self._zip.infolist()
        if len(infos) > self._limits.entries:
            raise TooLarge(f"{len(infos)} entries; the limit is {self._limits.entries}")
        refuse_pickled_archive(info.filename for info in infos)
        for info in infos:
            _check_entry(info, self._limits)
        _check_no_overlap(infos, self._file_bytes)
        return _by_member(infos)

    def _check_markers(self) -> None:
        missing = sorted(_REQUIRED - self._members.keys())
        if missing:
            raise ArchiveInvalid(
                f"{missing[0]} is missing: not an archive of torch.export.save. "
                f"Export with: {EXPORT_LINE}"
            )
        for member, expected in _MARKERS.items():
            if bytes(self.read(member, 64)).strip() != expected:
                raise ArchiveInvalid(
                    f"{member} is not {expected.decode()!r}; export again with {TORCH}"
                )


def _file_bytes(path: Path, limits: Limits) -> int:
    if not path.is_file():
        raise ArchiveInvalid("there is no such file; upload it again")
    size = path.stat().st_size
    if size > limits.archive_bytes:
        raise TooLarge(f"the archive has {size} bytes; the limit is {limits.archive_bytes}")
    return size


def _check_frame(path: Path, size: int, limits: Limits) -> None:
    """Bounds the directory before it is parsed: its size alone decides what parsing costs."""
    if size < _END.size:
        raise _broken()
    with path.open("rb") as file:
        start = file.read(len(_SIGNATURE))
        file.seek(size - _END.size)
        signature, *_, directory, _offset, comment = _END.unpack(file.read(_END.size))
    if start != _SIGNATURE or signature != _END_SIGNATURE or comment:
        raise _broken()
    # An offset in 64 bits is normal above 4 GiB; a directory of 4 GiB never is.
    bound = limits.entries * (_DIRECTORY_ENTRY_BYTES + 2 * limits.name_bytes)
    if directory == _UNKNOWN_32 or directory > bound:
        raise TooLarge(f"the archive's directory is larger than {limits.entries} entries need")


def _check_entry(info: zipfile.ZipInfo, limits: Limits) -> None:
    shown = info.filename[:100]
    if len(info.filename.encode("utf-8", "replace")) > limits.name_bytes:
        raise ArchiveInvalid(f"the entry {shown!r}… has too long a name")
    if not _is_plain_path(info.filename) or info.orig_filename != info.filename:
        raise ArchiveInvalid(f"the entry {shown!r} is not a plain relative path")
    if stat.S_ISLNK(info.external_attr >> 16):
        raise ArchiveInvalid(f"the entry {shown!r} is a symbolic link")
    if info.flag_bits & _ENCRYPTED:
        raise ArchiveInvalid(f"the entry {shown!r} is encrypted")
    if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
        raise ArchiveInvalid(
            f"the entry {shown!r} is compressed; upload the file as torch.export.save wrote it"
        )


def _is_plain_path(name: str) -> bool:
    atoms = name.split("/")
    return name.isprintable() and "\\" not in name and not {"", ".", ".."} & set(atoms)


def _check_no_overlap(infos: list[zipfile.ZipInfo], size: int) -> None:
    """Entries that share bytes could add up to more than the file holds."""
    end = 0
    for info in sorted(infos, key=lambda info: info.header_offset):
        if info.header_offset < end:
            raise ArchiveInvalid(f"the entry {info.filename[:100]!r} overlaps another")
        end = info.header_offset + _LOCAL_HEADER_BYTES + info.compress_size
    if end > size:
        raise _broken()


def _by_member(infos: list[zipfile.ZipInfo]) -> dict[str, zipfile.ZipInfo]:
    if any(info.filename == _BEFORE_FOLDERS for info in infos):
        raise ArchiveInvalid(
            f"it was written by torch 2.8 or older, which pickles the weights; export and save it with {TORCH}"
        )
    roots = {info.filename.partition("/")[0] for info in infos}
    if len(roots) != 1:
        raise ArchiveInvalid(f"the archive has {len(roots)} top folders; torch writes one")
    members: dict[str, zipfile.ZipInfo] = {}
    for info in infos:
        member = info.filename.partition("/")[2]
        if member in members:
            raise ArchiveInvalid(f"the entry {member[:100]!r} occurs twice")
        if not _EXPECTED.fullmatch(member):
            raise ArchiveInvalid(_unexpected(member))
        members[member] = info
    return members


def _unexpected(member: str) -> str:
    for start, meaning in _REFUSED.items():
        if member.startswith(start):
            return f"the entry {member[:100]!r} is {meaning}"
    return f"the entry {member[:100]!r} is none that torch.export.save writes"


def _fill(stream: IO[bytes], content: bytearray) -> int:
    view, filled = memoryview(content), 0
    while piece := stream.read(1 << 20):
        if filled + len(piece) > len(content):
            return -1
        view[filled : filled + len(piece)] = piece
        filled += len(piece)
    return filled


def _broken() -> ArchiveInvalid:
    return ArchiveInvalid(
        "this is not a whole .pt2 archive: it may have been cut short on the way, or be of "
        f"another format. Upload it again, or export with: {EXPORT_LINE}"
    )
