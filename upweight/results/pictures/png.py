"""Pixels as a PNG file: small pictures for notebooks, without a library for pictures."""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING

import upweight.late.numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


SIGNATURE = b"\x89PNG\r\n\x1a\n"
KINDS = {1: 0, 3: 2, 4: 6}  # channels -> the format's colour type


def png(pixels: NDArray[np.uint8]) -> bytes:
    """(height, width) or (height, width, channels) of 1, 3 or 4 channels."""
    height, width = pixels.shape[:2]
    channels = pixels.shape[2] if pixels.ndim == 3 else 1
    header = struct.pack(">IIBBBBB", width, height, 8, KINDS[channels], 0, 0, 0)
    lines = np.ascontiguousarray(pixels).reshape(height, -1)
    unfiltered = np.hstack([np.zeros((height, 1), np.uint8), lines]).tobytes()
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(unfiltered)), (b"IEND", b""))
    return SIGNATURE + b"".join(_chunk(kind, data) for kind, data in parts)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
