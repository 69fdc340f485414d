"""Datasets: from arrays, or from files that exist, to a checked record."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from upweight.client.blobs import put, put_source
from upweight.client.checking import Checked, until_checked
from upweight.client.columns import columns_of, format_of, roles, shards
from upweight.client.content import Source, tensors_content
from upweight.client.description import Description
from upweight.client.paging import Listing, items, items_async, listing
from upweight.client.request import reference
from upweight.exchange import Call, Flow, Work, segment
from upweight.progress import Bars
from upweight.safetensors_file import Tensor
from upweight.schema import DatasetRecord, DatasetRequest
from upweight.transport import AsyncTransport, Transport

DATASETS = Checked("/v1/datasets", DatasetRecord)

Reference = str | DatasetRecord


def register_arrays(
    bars: Bars, about: Description, arrays: Mapping[str, Any]
) -> Flow[DatasetRecord]:
    """Writes the arrays as shards, uploads and registers them."""
    columns: dict[str, Tensor] = yield Work(lambda: columns_of(arrays))
    inputs, targets = roles(list(columns), about.inputs, about.targets)
    # The names are checked before gigabytes are sent under them.
    source = {"format": "safetensors", "inputs": inputs, "targets": targets}
    about.request(**source, blobs=("sha256:" + "0" * 64,))
    parts = list(shards({name: columns[name] for name in (*inputs, *targets)}))
    digests = []
    for number, shard in enumerate(parts, start=1):
        label = about.name if len(parts) == 1 else f"{about.name} {number}/{len(parts)}"
        blob = yield from put(tensors_content(shard, label), bars)
        digests.append(blob.digest)
    return (yield from _registered(bars, about, about.request(**source, blobs=tuple(digests))))


def register_files(
    bars: Bars, about: Description, paths: Sequence[Source] | Source, format: str | None
) -> Flow[DatasetRecord]:
    """Uploads files as shards in order and registers them."""
    sources: list[Any] = list(paths) if isinstance(paths, list | tuple) else [paths]
    chosen = format or format_of(sources)
    about.request(format=chosen, blobs=("sha256:" + "0" * 64,))
    digests = []
    for source in sources:
        blob = yield from put_source(source, bars)
        digests.append(blob.digest)
    request = about.request(format=chosen, blobs=tuple(digests))
    return (yield from _registered(bars, about, request))


def register_uri(bars: Bars, about: Description, uri: str, format: str) -> Flow[DatasetRecord]:
    """Registers what lies in the object storage already."""
    return (yield from _registered(bars, about, about.request(format=format, uri=uri)))


def _registered(bars: Bars, about: Description, request: DatasetRequest) -> Flow[DatasetRecord]:
    body = request.model_dump(mode="json")
    reply = yield Call("POST", DATASETS.path, json=body, creates=True)
    record = reply.read(DatasetRecord)
    if not about.wait:
        return record
    return (yield from until_checked(DATASETS, record.id, record, bars, about.timeout, about.hold))


def delete(dataset: Reference) -> Flow[None]:
    """Removes a dataset that no job holds."""
    yield Call("DELETE", f"{DATASETS.path}/{segment(reference(dataset))}")


def _listing(
    limit: int | None, order: str, state: str | None, labels: Mapping[str, str] | None
) -> Listing[DatasetRecord]:
    return listing(
        DATASETS.path, DatasetRecord, limit=limit, order=order, labels=labels, state=state
    )


@dataclass(frozen=True)
class Datasets:
    """`client.datasets`."""

    link: Transport
    bars: Bars

    def register(
        self,
        name: str,
        columns: Mapping[str, Any] | None = None,
        *,
        inputs: Sequence[str] | str | None = None,
        targets: Sequence[str] | str | None = None,
        preview: Any = None,
        class_names: Sequence[str] = (),
        labels: Mapping[str, str] | None = None,
        wait: bool = True,
        timeout: float | None = None,
        **arrays: Any,
    ) -> DatasetRecord:
        """Registers arrays and waits for the check: `register("digits-train", x=x_train, y=y_train)`.

        Columns are numpy arrays, torch tensors or lists, one entry a row; a column whose name is a parameter here
        goes into `columns`. A column `y` is the target and the rest are inputs, unless `inputs` or `targets` name
        others.
        """
        about = Description(name, inputs, targets, preview, class_names, labels, wait, timeout,
                            self.link.connection.hold)  # fmt: skip
        return self.link.run(register_arrays(self.bars, about, {**(columns or {}), **arrays}))

    def register_files(
        self,
        name: str,
        paths: Sequence[Source] | Source,
        *,
        format: str | None = None,
        inputs: Sequence[str] | str | None = None,
        targets: Sequence[str] | str | None = None,
        preview: Any = None,
        class_names: Sequence[str] = (),
        labels: Mapping[str, str] | None = None,
        wait: bool = True,
        timeout: float | None = None,
    ) -> DatasetRecord:
        """Registers safetensors, npz or parquet files, as shards in order."""
        about = Description(name, inputs, targets, preview, class_names, labels, wait, timeout,
                            self.link.connection.hold)  # fmt: skip
        return self.link.run(register_files(self.bars, about, paths, format))

    def register_uri(
        self,
        name: str,
        uri: str,
        *,
        format: str,
        inputs: Sequence[str] | str | None = None,
        targets: Sequence[str] | str | None = None,
        preview: Any = None,
        class_names: Sequence[str] = (),
        labels: Mapping[str, str] | None = None,
        wait: bool = True,
        timeout: float | None = None,
    ) -> DatasetRecord:
        """Registers what lies under a prefix of the object storage that the operator allows."""
        about = Description(name, inputs, targets, preview, class_names, labels, wait, timeout,
                            self.link.connection.hold)  # fmt: skip
        return self.link.run(register_uri(self.bars, about, uri, format))

    def get(self, dataset: Reference) -> DatasetRecord:
        """The record of an id or a name (`digits-train`, `digits-train@2`)."""
        return self.link.run(DATASETS.get(reference(dataset)))

    def list(
        self,
        *,
        limit: int | None = None,
        order: str = "desc",
        state: str | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> Iterator[DatasetRecord]:
        """The records, newest first, page after page as they are needed."""
        return items(self.link, _listing(limit, order, state, labels))

    def wait(self, dataset: Reference, timeout: float | None = None) -> DatasetRecord:
        """The record once it is checked; a refused one raises Rejected."""
        hold = self.link.connection.hold
        return self.link.run(
            until_checked(DATASETS, reference(dataset), None, self.bars, timeout, hold)
        )

    def delete(self, dataset: Reference) -> None:
        """Removes it; InUse while a job holds it."""
        self.link.run(delete(dataset))


@dataclass(frozen=True)
class AsyncDatasets:
    """`client.datasets` of an AsyncClient."""

    link: AsyncTransport
    bars: Bars

    async def register(
        self,
        name: str,
        columns: Mapping[str, Any] | None = None,
        *,
        inputs: Sequence[str] | str | None = None,
        targets: Sequence[str] | str | None = None,
        preview: Any = None,
        class_names: Sequence[str] = (),
        labels: Mapping[str, str] | None = None,
        wait: bool = True,
        timeout: float | None = None,
        **arrays: Any,
    ) -> DatasetRecord:
        """See `Datasets.register`."""
        about = Description(name, inputs, targets, preview, class_names, labels, wait, timeout,
                            self.link.connection.hold)  # fmt: skip
        return await self.link.run(register_arrays(self.bars, about, {**(columns or {}), **arrays}))

    async def register_files(
        self,
        name: str,
        paths: Sequence[Source] | Source,
        *,
        format: str | None = None,
        inputs: Sequence[str] | str | None = None,
        targets: Sequence[str] | str | None = None,
        preview: Any = None,
        class_names: Sequence[str] = (),
        labels: Mapping[str, str] | None = None,
        wait: bool = True,
        timeout: float | None = None,
    ) -> DatasetRecord:
        """See `Datasets.register_files`."""
        about = Description(name, inputs, targets, preview, class_names, labels, wait, timeout,
                            self.link.connection.hold)  # fmt: skip
        return await self.link.run(register_files(self.bars, about, paths, format))

    async def register_uri(
        self,
        name: str,
        uri: str,
        *,
        format: str,
        inputs: Sequence[str] | str | None = None,
        targets: Sequence[str] | str | None = None,
        preview: Any = None,
        class_names: Sequence[str] = (),
        labels: Mapping[str, str] | None = None,
        wait: bool = True,
        timeout: float | None = None,
    ) -> DatasetRecord:
        """See `Datasets.register_uri`."""
        about = Description(name, inputs, targets, preview, class_names, labels, wait, timeout,
                            self.link.connection.hold)  # fmt: skip
        return await self.link.run(register_uri(self.bars, about, uri, format))

    async def get(self, dataset: Reference) -> DatasetRecord:
        """See `Datasets.get`."""
        return await self.link.run(DATASETS.get(reference(dataset)))

    def list(
        self,
        *,
        limit: int | None = None,
        order: str = "desc",
        state: str | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> AsyncIterator[DatasetRecord]:
        """See `Datasets.list`; iterate with `async for`."""
        return items_async(self.link, _listing(limit, order, state, labels))

    async def wait(self, dataset: Reference, timeout: float | None = None) -> DatasetRecord:
        """See `Datasets.wait`."""
        hold = self.link.connection.hold
        return await self.link.run(
            until_checked(DATASETS, reference(dataset), None, self.bars, timeout, hold)
        )

    async def delete(self, dataset: Reference) -> None:
        """See `Datasets.delete`."""
        await self.link.run(delete(dataset))
