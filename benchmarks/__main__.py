"""`make bench`: the service's figures, one after another. For the engine: `python -m benchmarks.peers`."""

from __future__ import annotations

from benchmarks import blobs, cold_start, overhead

if __name__ == "__main__":
    for figure in (overhead, cold_start, blobs):
        figure.main()
