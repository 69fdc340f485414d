"""Arrays that stay at the service: indexed as numpy's are, fetched slice by slice."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import upweight.late.numpy as np
from upweight.http.flow import Flow
from upweight.http.transport import AsyncTransport, Transport
from upweight.progress import Bars
from upweight.results.saving import Axis, Labelled, saved_as
from upweight.results.source import ArraySource
from upweight.schema import ArraySpec, Info

if TYPE_CHECKING:
    from numpy.typing import DTypeLike, NDArray


BLOCK = 16 << 20  # bytes that iterating over rows fetches at a time


class _Described:
    """What is known without fetching."""

    def __init__(self, source: ArraySource, bars: Bars) -> None:
        self._source, self._bars = source, bars
        self.shape = source.shape
        self.dtype = np.dtype(source.dtype)

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize

    def __len__(self) -> int:
        return self.shape[0]

    def _saved(self, path: str | os.PathLike[str]) -> Flow[Path]:
        source = self._source
        axes = tuple(Axis(name) for name in source.axes or ("row",))
        sources = {source.name: source}
        return saved_as(path, source.name, sources, Labelled(axes, "value"), self._bars)

    def __repr__(self) -> str:
        return (
            f"<{type(self).__name__} {self._source.name} {self.shape} {self.dtype}, at the service>"
        )


class RemoteArray(_Described):
    """An array at the service. `array[3:5, ::10]` fetches that; `np.asarray(array)` fetches all."""

    def __init__(self, source: ArraySource, link: Transport, bars: Bars) -> None:
        super().__init__(source, bars)
        self._link = link

    def __getitem__(self, key: Any) -> Any:
        return self._link.run(self._source.fetched(key, self._bars))

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        if copy is False:
            raise ValueError("the array is at the service: it can't be had without a copy")
        whole: NDArray[Any] = self[...]
        return whole if dtype is None else whole.astype(dtype, copy=False)

    def __iter__(self) -> Iterator[Any]:
        rows = max(1, BLOCK * len(self) // max(self.nbytes, 1))
        for start in range(0, len(self), rows):
            yield from self[start : start + rows]

    def numpy(self) -> NDArray[Any]:
        """All of it, in memory."""
        return self.__array__()

    def save(self, path: str | os.PathLike[str]) -> Path:
        """All of it into a file: .npy, .npz, .safetensors, .csv or .parquet; streamed."""
        return self._link.run(self._saved(path))


class AsyncRemoteArray(_Described):
    """An array at the service: `await array[3:5, ::10]`, `await array.numpy()`."""

    def __init__(self, source: ArraySource, link: AsyncTransport, bars: Bars) -> None:
        super().__init__(source, bars)
        self._link = link

    def __getitem__(self, key: Any) -> Awaitable[Any]:
        return self._link.run(self._source.fetched(key, self._bars))

    async def numpy(self) -> NDArray[Any]:
        """All of it, in memory."""
        whole: NDArray[Any] = await self[...]
        return whole

    async def save(self, path: str | os.PathLike[str]) -> Path:
        """All of it into a file: .npy, .npz, .safetensors, .csv or .parquet; streamed."""
        return await self._link.run(self._saved(path))


class InversionInfo(Mapping[str, Any]):
    """A summary's numbers and, under their names, arrays (RemoteArray: fetched by slice)."""

    def __init__(self, info: Info, open_array: Any) -> None:
        self.method = info.method
        self.summary = dict(info.summary)
        self.arrays: dict[str, ArraySpec] = {spec.name: spec for spec in info.arrays}
        self._open = open_array

    def __getitem__(self, name: str) -> Any:
        return self._open(self.arrays[name]) if name in self.arrays else self.summary[name]

    def __iter__(self) -> Iterator[str]:
        yield from self.summary
        yield from (name for name in self.arrays if name not in self.summary)

    def __len__(self) -> int:
        return len({*self.summary, *self.arrays})

    def __repr__(self) -> str:
        return f"<InversionInfo {self.method} {self.summary} arrays: {list(self.arrays)}>"
