"""The first rows of an example, sent inside the archive of a program: the service tries the model on them.

Without them it makes rows up, which may be none that the model takes. torch's own record of an example is a pickle,
which nobody opens.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from upweight.files.safetensors_file import SafetensorsFile, tensor_of

if TYPE_CHECKING:
    from torch.export import ExportedProgram

MEMBER = "upweight-example"  # of the archive's folder `extra`: safetensors in base64, for torch writes text alone there
MOST_ROWS = 16
MOST_BYTES = 256 * 1024


def encoded_rows(program: ExportedProgram, example: Any) -> str | None:
    """Up to 16 rows under the names of the program's inputs; None where a row is too large, or names do not fit."""
    import torch

    names = [str(name) for name in program.graph_signature.user_inputs]
    if isinstance(example, Mapping):
        own = {_plain(name): name for name in names}  # the graph writes names in small letters
        given = {
            own.get(_plain(str(name)), str(name)): torch.as_tensor(value)
            for name, value in example.items()
        }
    else:
        values = example if isinstance(example, tuple) else (example,)
        given = dict(zip(names, map(torch.as_tensor, values), strict=False))
    if sorted(given) != sorted(names) or not all(each.ndim for each in given.values()):
        return None
    count = min(len(each) for each in given.values())
    row_bytes = sum(each[:1].nbytes for each in given.values())
    count = min(count, MOST_ROWS, MOST_BYTES // max(1, row_bytes))
    if not count:
        return None
    file = SafetensorsFile({name: tensor_of(name, each[:count]) for name, each in given.items()})
    return base64.b64encode(b"".join(file.chunks())).decode()


def _plain(name: str) -> str:
    return re.sub("[^a-z0-9]+", "_", name.lower())
