"""8 blobs of 1 GiB at once through the front end: its peak memory, and the rate of all together."""

from __future__ import annotations

import hashlib
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2

from benchmarks.figures import told
from service.local.background import Running, running

UPLOADS, SIZE, PIECE = 8, 1024**3, 1024**2


def main() -> None:
    """Prints the figures. The blobs are zeros but for their first bytes: how they are made takes no time."""
    digests = [hashlib.sha256() for _ in range(UPLOADS)]
    for number, digest in enumerate(digests):
        for piece in _pieces(number):
            digest.update(piece)
    with tempfile.TemporaryDirectory() as folder, running(Path(folder)) as service:
        pid = service.pid("front")
        idle = _memory(pid, "VmRSS")
        statuses: list[int] = []
        threads = [
            threading.Thread(
                target=lambda n=number: statuses.append(_upload(service, n, digests[n].hexdigest()))
            )
            for number in range(UPLOADS)
        ]
        began = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        seconds = time.perf_counter() - began
        peak = _memory(pid, "VmHWM") - idle
    if statuses != [201] * UPLOADS:
        raise SystemExit(f"the uploads were answered {statuses}")
    told(
        f"{UPLOADS} uploads of 1 GiB at once, together", [UPLOADS * SIZE / 2**20 / seconds], "MiB/s"
    )
    told("front end's peak memory above idle", [peak / 1024], "MiB", f"below {32 * UPLOADS}")


def _pieces(number: int) -> Iterator[bytes]:
    yield number.to_bytes(8, "big") + bytes(PIECE - 8)
    piece = bytes(PIECE)
    for _ in range(SIZE // PIECE - 1):
        yield piece


def _upload(service: Running, number: int, digest: str) -> int:
    with httpx2.Client(base_url=service.url, timeout=600, trust_env=False) as http:
        headers = {"Content-Length": str(SIZE)}
        answer = http.put(f"/v1/blobs/sha256:{digest}", content=_pieces(number), headers=headers)
        return answer.status_code


def _memory(pid: int, field: str) -> int:
    """KiB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))
