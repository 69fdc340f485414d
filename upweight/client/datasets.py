"""Datasets: from rows of any kind, or from files that exist, to a checked record."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from upweight.client.blobs import put, put_source
from upweight.client.checking import Checked, until_checked
from upweight.client.content import Source, tensors_content
from upweight.client.description import Description
from upweight.client.files import FORMATS, files_of, format_of, npy_columns
from upweight.client.intake import Incoming, incoming
from upweight.client.paging import Listing, items, items_async, listing
from upweight.client.request import reference
from upweight.client.roles import roles
from upweight.errors import InvalidRequest
from upweight.http.flow import Call, Flow, Work, segment
from upweight.http.transport import AsyncTransport, Transport
from upweight.progress import Bars
from upweight.results.rows import RowChoice, record_of, rows_of, rows_text
from upweight.schema import DatasetRecord, DatasetRequest

DATASETS = Checked("/v1/datasets", DatasetRecord)

Reference = str | DatasetRecord
NO_BLOB = "sha256:" + "0" * 64  # stands for what is not uploaded yet while the rest is checked


def register(
    bars: Bars,
    about: Description,
    data: Any,
    uri: str | None,
    format: str | None,
    arrays: Mapping[str, Any],
) -> Flow[DatasetRecord]:
    """Uploads what has to be, registers it, and waits for the check."""
    if uri is not None:
        request = _elsewhere(about, uri, format, data is not None or bool(arrays))
        return (yield from _registered(bars, about, request))
    files = files_of(data)
    if files is None or npy_columns(files) is not None:
        return (yield from register_rows(bars, about, data, files, arrays))
    return (yield from register_files(bars, about, files, format))


def register_rows(
    bars: Bars, about: Description, data: Any, files: list[Any] | None, arrays: Mapping[str, Any]
) -> Flow[DatasetRecord]:
    """Writes rows as shards, uploads and registers them, a shard at a time."""
    data = data if files is None else npy_columns(files)
    came: Incoming = yield Work(
        lambda: incoming(data, arrays, about.inputs, about.targets, about.class_names)
    )
    about = about.filled(came.preview, came.class_names, came.features)
    digests: list[str] = []
    inputs: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    while (shard := (yield Work(lambda: next(came.shards, None)))) is not None:
        if not digests:  # the names are checked before gigabytes are sent under them
            wanted = (
                came.inputs or about.inputs,
                about.targets if came.targets is None else came.targets,
            )
            inputs, targets = roles(list(shard), *wanted)
            about.request(format="safetensors", inputs=inputs, targets=targets, blobs=(NO_BLOB,))
        label = (
            about.name
            if came.count == 1
            else f"{about.name} {len(digests) + 1}/{came.count or '?'}"
        )
        content = tensors_content({name: shard[name] for name in (*inputs, *targets)}, label)
        blob = yield from put(content, bars)
        digests.append(blob.digest)
    request = about.request(
        format="safetensors", inputs=inputs, targets=targets, blobs=tuple(digests)
    )
    return (yield from _registered(bars, about, request))


def register_files(
    bars: Bars, about: Description, sources: Sequence[Source], format: str | None
) -> Flow[DatasetRecord]:
    """Uploads files as shards in order and registers them."""
    chosen = format or format_of(sources)
    about.request(format=chosen, blobs=(NO_BLOB,))
    digests = []
    for source in sources:
        blob = yield from put_source(source, bars)
        digests.append(blob.digest)
    request = about.request(format=chosen, blobs=tuple(digests))
    return (yield from _registered(bars, about, request))


def _elsewhere(about: Description, uri: str, format: str | None, too_much: bool) -> DatasetRequest:
    """The request for what lies in the object storage already."""
    if too_much:
        raise InvalidRequest("give data to upload, or the uri of what is stored already; not both")
    if format is None:
        raise InvalidRequest(f"with a uri, give format= one of {sorted(FORMATS.values())}")
    return about.request(format=format, uri=uri)


def _registered(bars: Bars, about: Description, request: DatasetRequest) -> Flow[DatasetRecord]:
    # An older service does not know of features.
    body = request.model_dump(mode="json", exclude=None if request.features else {"features"})
    reply = yield Call("POST", DATASETS.path, json=body, creates=True)
    record = reply.read(DatasetRecord)
    if not about.wait:
        return record
    return (yield from until_checked(DATASETS, record.id, record, bars, about.timeout, about.hold))


def look(
    dataset: Reference, chosen: RowChoice, columns: Sequence[str] | str | None
) -> Flow[dict[str, NDArray[Any]]]:
    """Some rows, column by column."""
    record = dataset if isinstance(dataset, DatasetRecord) else (yield from record_of(dataset))
    names = [columns] if isinstance(columns, str) else columns
    return (yield from rows_of(record, rows_text(chosen), names))


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
        data: Any = None,
        *,
        uri: str | None = None,
        format: str | None = None,
        inputs: Sequence[str] | str | None = None,
        targets: Sequence[str] | str | None = None,
        preview: Any = None,
        class_names: Sequence[str] = (),
        labels: Mapping[str, str] | None = None,
        wait: bool = True,
        timeout: float | None = None,
        **arrays: Any,
    ) -> DatasetRecord:
        """Registers rows and waits for the check: `register("digits-train", x=x_train, y=y_train)`.

        Columns are numpy arrays, torch tensors or lists, one entry a row; a column `y` is the target and the rest
        are inputs, unless `inputs` or `targets` name others. Instead of them, `data` is one of these:

        - a dict of columns, for names that are parameters here;
        - a pandas DataFrame, or several in a list: its feature columns become one matrix `x`, whose names are
          kept and matched with those of a job's other data; `targets="label"` is (rows,), `targets=["price"]` a
          matrix `y`;
        - a torch Dataset or an unshuffled DataLoader, Hugging Face's datasets, or any rows as dicts or tuples,
          (x, y) unless `inputs` and `targets` name the parts: sent in shards, never in memory whole;
        - paths of safetensors, npz or parquet files, shards in order; or of .npy files, one a column.

        A target's words become class numbers, by `class_names` or by a DataFrame's categories. A job finds columns
        by name, in whatever order they are here.

        `uri`: a prefix of the object storage that the operator allows, with what `format` is there.
        """
        about = Description(name, inputs, targets, preview, class_names, labels, wait, timeout,
                            self.link.connection.hold)  # fmt: skip
        return self.link.run(register(self.bars, about, data, uri, format, arrays))

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

    def rows(
        self, dataset: Reference, rows: RowChoice, columns: Sequence[str] | str | None = None
    ) -> dict[str, NDArray[Any]]:
        """Some rows, to look at: `rows("digits-train", "0:5")["x"]` is (5, …). `columns`: those alone."""
        return self.link.run(look(dataset, rows, columns))

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
        data: Any = None,
        *,
        uri: str | None = None,
        format: str | None = None,
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
        return await self.link.run(register(self.bars, about, data, uri, format, arrays))

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

    async def rows(
        self, dataset: Reference, rows: RowChoice, columns: Sequence[str] | str | None = None
    ) -> dict[str, NDArray[Any]]:
        """See `Datasets.rows`."""
        return await self.link.run(look(dataset, rows, columns))

    async def delete(self, dataset: Reference) -> None:
        """See `Datasets.delete`."""
        await self.link.run(delete(dataset))
