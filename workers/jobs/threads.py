"""How many threads a job is computed with: sums are cut among them, so that their number decides the last bits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def computing_with(threads: int) -> Iterator[None]:
    """So many CPU threads of torch, whatever this worker has been told; its own number afterwards."""
    own = torch.get_num_threads()
    if threads == own:
        yield
        return
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(own)
