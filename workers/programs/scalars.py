"""Torch's numbers for dtypes and memory formats: those which a model may use."""

import torch

from workers.programs.errors import GraphInvalid

_DTYPES = {
    1: torch.uint8,
    2: torch.int8,
    3: torch.int16,
    4: torch.int32,
    5: torch.int64,
    6: torch.float16,
    7: torch.float32,
    8: torch.float64,
    10: torch.complex64,
    11: torch.complex128,
    12: torch.bool,
    13: torch.bfloat16,
}
_MEMORY_FORMATS = {
    1: torch.contiguous_format,
    2: torch.channels_last,
    3: torch.channels_last_3d,
    4: torch.preserve_format,
}
STRIDED = 7


def dtype_of(number: int) -> torch.dtype:
    """The dtype with this number in the export schema."""
    if number not in _DTYPES:
        raise GraphInvalid(
            f"dtype number {number} is not supported: use float, bfloat16, integers, bool, complex"
        )
    return _DTYPES[number]


def memory_format_of(number: int) -> torch.memory_format:
    """The memory format with this number in the export schema."""
    if number not in _MEMORY_FORMATS:
        raise GraphInvalid(f"memory format number {number} is not supported")
    return _MEMORY_FORMATS[number]


def require_strided(layout: int) -> None:
    """Refuses sparse and backend-specific layouts."""
    if layout != STRIDED:
        raise GraphInvalid(f"layout number {layout} is not supported: only dense tensors are")
