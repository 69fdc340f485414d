"""A body that becomes a file: gone on with where it broke, checked, and put in place all at once."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO

from upweight.errors import DigestMismatch
from upweight.http.flow import UnexpectedAnswer
from upweight.progress import Bar

CHUNK = 1 << 20  # bytes


class FileSink:
    """Writes beside `path`; `finish` renames, so that `path` is either whole or as it was."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        digest: str | None = None,
        accept: str = "*/*",
        resumes: bool = False,
        bar: Bar | None = None,
    ) -> None:
        self.path = Path(path)
        self._part = self.path.with_name(f".{self.path.name}.{secrets.token_hex(4)}.part")
        self._digest, self._accept, self._resumes, self._bar = digest, accept, resumes, bar
        self._file: IO[bytes] | None = None
        self._written = 0
        self._expected: int | None = None

    def headers(self) -> Mapping[str, str]:
        headers = {"Accept": self._accept, "Accept-Encoding": "identity"}
        if self._resumes and self._written:
            headers["Range"] = f"bytes={self._written}-"
        return headers

    def begin(self, status: int, headers: Mapping[str, str]) -> None:
        if self._file is None:
            self._file = self._part.open("wb")
        if status != 206:
            self._file.seek(0)
            self._file.truncate()
            self._written = 0
        elif not headers.get("content-range", "").startswith(f"bytes {self._written}-"):
            raise UnexpectedAnswer("the service sent another part of the file than was asked for")
        length = headers.get("content-length")
        self._expected = self._written + int(length) if length else None
        if self._bar:
            self._bar.to(self._written, self._expected)

    def write(self, chunk: bytes) -> None:
        assert self._file is not None
        self._file.write(chunk)
        self._written += len(chunk)
        if self._bar:
            self._bar.advance(len(chunk))

    def finish(self) -> None:
        assert self._file is not None
        self._file.close()
        try:
            self._check()
        except BaseException:
            self.discard()
            raise
        self._part.replace(self.path)

    def discard(self) -> None:
        """Removes what was written beside the path."""
        if self._file is not None:
            with suppress(OSError):  # a full disk does not take what is still to be written
                self._file.close()
        self._part.unlink(missing_ok=True)

    def _check(self) -> None:
        if self._expected is not None and self._written != self._expected:
            raise UnexpectedAnswer(
                f"{self._written} bytes came of {self._expected} that were announced"
            )
        if self._digest is None:
            return
        # The file is read once more: what counts is what lies on the disk, resumed parts and all.
        state = hashlib.sha256()
        with self._part.open("rb") as file:
            while chunk := file.read(CHUNK):
                state.update(chunk)
        found = f"sha256:{state.hexdigest()}"
        if found != self._digest:
            raise DigestMismatch(
                f"the bytes that came have {found}, not {self._digest}; nothing was kept, fetch it again"
            )
