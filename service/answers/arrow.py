"""Numbers as an Arrow stream: a column `values`, a record a position of the first axis, a batch a block.

Where the first axis is λ, the records are those of each λ, one after the other.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
from starlette.responses import StreamingResponse

from service.answers.formats import ARROW, Array, Numbers

if TYPE_CHECKING:
    import pyarrow as pa

_COLUMN = "values"


def arrow_response(numbers: Numbers) -> StreamingResponse:
    """Sent block by block, as it is read."""
    # The first block is read before the answer begins: what fails then is still a problem document.
    first = next(numbers.blocks, None)
    blocks = chain([] if first is None else [first], numbers.blocks)
    return StreamingResponse(_stream(numbers, blocks), media_type=ARROW)


def _stream(numbers: Numbers, blocks: Iterator[Array]) -> Iterator[bytes]:
    import pyarrow as pa  # slow to import, and seldom wanted

    kind = _kind(numbers)
    schema = pa.schema([pa.field(_COLUMN, kind, nullable=False)])
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, schema) as writer:
        for block in blocks:
            writer.write_batch(pa.record_batch([_records(block, numbers, kind)], schema=schema))
            yield _taken(sink)
    yield _taken(sink)


def _taken(sink: io.BytesIO) -> bytes:
    data = sink.getvalue()
    sink.seek(0)
    sink.truncate()
    return data


def _kind(numbers: Numbers) -> pa.DataType:
    """A number, or for more axes lists of fixed lengths, as Arrow and Parquet readers know them."""
    import pyarrow as pa

    kind = pa.from_numpy_dtype(numbers.dtype.newbyteorder("="))
    for length in reversed(numbers.record_shape):
        kind = pa.list_(kind, length)
    return kind


def _records(block: Array, numbers: Numbers, kind: Any) -> pa.Array:
    import pyarrow as pa

    native = np.ascontiguousarray(block, numbers.dtype.newbyteorder("="))
    records, kinds = pa.array(native.reshape(-1)), [kind]
    while pa.types.is_fixed_size_list(kinds[-1]):
        kinds.append(kinds[-1].value_type)
    for depth in range(len(kinds) - 2, -1, -1):
        records = pa.FixedSizeListArray.from_arrays(records, type=kinds[depth])
    return records
