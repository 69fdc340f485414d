"""The rows that a user gave as an example, in the archive of the program: see `upweight.sent_example`."""

from __future__ import annotations

import base64
from collections.abc import Sequence

import torch
from safetensors import SafetensorError
from safetensors.torch import load

from workers.programs.errors import InputUnsupported
from workers.programs.program import InputSpec


def read_example(encoded: bytes, inputs: Sequence[InputSpec]) -> dict[str, torch.Tensor]:
    """The rows by the inputs' names, from the file's bytes in base64. Raises InputUnsupported."""
    try:
        tensors = load(base64.b64decode(encoded, validate=True))
    except (SafetensorError, ValueError, RuntimeError) as error:
        raise _refused(f"is not a whole safetensors file ({error})") from error
    names = [spec.name for spec in inputs]
    if sorted(tensors) != sorted(names):
        raise _refused(f"has {sorted(tensors)}, the program's inputs are {names}")
    counts = {len(each) if each.ndim else 0 for each in tensors.values()}
    if len(counts) != 1 or 0 in counts:
        raise _refused("needs the same number of rows, at least one, in each tensor")
    for spec in inputs:
        _check_fits(spec, tensors[spec.name])
    return tensors


def _check_fits(spec: InputSpec, rows: torch.Tensor) -> None:
    dtype = str(rows.dtype).removeprefix("torch.")
    fits = len(rows.shape) == len(spec.shape) and all(
        wanted is None or wanted == given
        for wanted, given in zip(spec.shape[1:], rows.shape[1:], strict=False)
    )
    if not fits or dtype != spec.dtype:
        raise _refused(
            f"has {spec.name!r} as {dtype} {list(rows.shape)}, the program takes {spec.dtype} {list(spec.shape)}"
        )


def _refused(words: str) -> InputUnsupported:
    return InputUnsupported(
        f"the example in the archive {words}: it holds one tensor for each input, by its name"
    )
