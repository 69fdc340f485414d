"""Some rows of a column of a Parquet file, as previews ask for them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from service.storage.object_bytes import ObjectBytes
from service.storage.parquet import Array, BadParquet, ParquetColumns, ParquetEntry
from service.storage.ranged import ranged


@dataclass(frozen=True)
class DecodedColumn:
    """A column of a Parquet file: decoded from the beginning of a row group to the rows asked for."""

    file: ParquetColumns
    name: str
    entry: ParquetEntry
    budget: int

    @classmethod
    def open(cls, content: ObjectBytes, name: str, budget: int) -> DecodedColumn:
        """At most so many bytes are fetched, and decoded. Raises KeyError, BadParquet."""
        file = ParquetColumns(ranged(content, budget))
        return cls(file, name, file.entry(name), budget)

    def read(self, rows: Array) -> Array:
        """These rows of it: ascending, each once. Raises BadParquet when too much would have to be decoded."""
        found = np.empty((len(rows), *self.entry.shape[1:]), self.entry.dtype)
        done, left = 0, self.budget
        while done < len(rows):
            for start, block in self.file.blocks(self.name, int(rows[done]), self.entry):
                left -= block.nbytes
                if left < 0:
                    raise BadParquet(
                        f"more than {self.budget} bytes would have to be decoded; write smaller row groups"
                    )
                stop = int(np.searchsorted(rows, start + len(block)))
                found[done:stop] = block[rows[done:stop] - start]
                done = max(done, stop)
                if done == len(rows) or self.file.group_start(int(rows[done])) >= start + len(
                    block
                ):
                    break
        return found
