"""A blob of 1 GiB through the front end: throughput both ways, and its peak memory above idle."""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
from pathlib import Path

from benchmarks.figures import told
from service.local.background import running
from upweight import Client

SIZE = 1024**3
PIECE = 8 * 1024**2
RUNS = 3


def main() -> None:
    """Prints the figures. Peak memory is the kernel's high-water mark of the front end's process."""
    uploads, downloads, peaks = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(RUNS):
            data = Path(folder) / f"data-{number}"
            with running(data) as service, Client(service.url) as client:
                source = _random_file(Path(folder) / "blob")
                pid = service.pid("front")
                idle = _memory(pid, "VmRSS")
                began = time.perf_counter()
                record = client.blobs.put(source)
                uploads.append(SIZE / 1024**2 / (time.perf_counter() - began))
                began = time.perf_counter()
                client.blobs.download(record.digest, Path(folder) / "back")
                downloads.append(SIZE / 1024**2 / (time.perf_counter() - began))
                peaks.append((_memory(pid, "VmHWM") - idle) / 1024)
            if _digest(Path(folder) / "back") != record.digest:
                raise SystemExit("the blob came back changed")
    told("upload of 1 GiB (SDK hashes it first)", uploads, "MiB/s")
    told("download of 1 GiB (verified)", downloads, "MiB/s")
    told("front end's peak memory above idle", peaks, "MiB", "below 100")


def _random_file(path: Path) -> Path:
    with path.open("wb") as file:
        for _ in range(SIZE // PIECE):
            file.write(os.urandom(PIECE))
    return path


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def _memory(pid: int, field: str) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


if __name__ == "__main__":
    main()
