"""The kernels that have the derivatives which are taken, second ones for most, and errors that name the rest."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from workers.engine.errors import EngineError, OutOfMemory, UnsupportedOperator
from workers.engine.model.dtypes import is_mixed, mixed

# What torch says of an operator without a derivative or a batching rule; the group is its name.
_MESSAGES = (
    re.compile(r"derivative for (\S+) is not implemented"),
    re.compile(r"forward AD with (\S+) that does not support it"),
    re.compile(r"Batching rule not implemented for (\S+?)[\s.;,]"),
    re.compile(r"the derivative for '?([\w:.]+)'? is not implemented"),
)
_MEMORY = re.compile(r"out of memory|can't allocate memory|not enough memory", re.IGNORECASE)


@contextmanager
def twice_differentiable() -> Iterator[None]:
    """Run attention on its math kernel, and silence torch's notes to itself.

    The fused attention kernels have neither a second derivative nor forward mode.
    """
    with _attention_by(SDPBackend.MATH):
        yield


@contextmanager
def once_differentiable() -> Iterator[None]:
    """The same where first derivatives are all: attention runs on the flash kernel where it can.

    On a CPU it can in float32 and float64; on a GPU in half precision alone, so that nothing changes there.
    """
    with _attention_by(SDPBackend.FLASH_ATTENTION, SDPBackend.MATH):
        yield


@contextmanager
def _attention_by(*kernels: SDPBackend) -> Iterator[None]:
    fastpath = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(list(kernels)), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*performance drop.*")
            warnings.filterwarnings("ignore", message=".*TreeSpec.*", category=FutureWarning)
            warnings.filterwarnings("ignore", message=".*torch.jit.*", category=DeprecationWarning)
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fastpath)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether this is the device's or the host's allocator giving up."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError | OutOfMemory):
        return True
    return isinstance(error, RuntimeError) and bool(_MEMORY.search(str(error)))


def explained(error: Exception, doing: str) -> EngineError:
    """Torch's message as an UnsupportedOperator, with the operator's name if torch gives it, or as MixedPrecision."""
    for pattern in _MESSAGES:
        found = pattern.search(str(error))
        if found:
            return UnsupportedOperator(
                found.group(1).strip("'\"."),
                f"torch has no rule for it when {doing}; replace it by elementary operations",
            )
    if is_mixed(error):
        return mixed(error)
    words = str(error).strip().partition("\n")[0]
    return UnsupportedOperator("unknown", f"{doing} failed: {words}")
