"""Datasets: from rows of any kind, or from files that exist, to a checked record."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import upweight.client.previews as previews
import upweight.late.numpy as np
from upweight.client.blobs import put, put_source
from upweight.client.content import Source, tensors_content
from upweight.client.files import FORMATS, files_of, format_of, npy_columns
from upweight.client.intake import Incoming, Metadata, incoming
from upweight.client.intake.ids import column_of, free_name, is_column, metadata_column
from upweight.client.registered import AsyncRegistered, Registered, Resource
from upweight.client.request import reference, selection, validated
from upweight.errors import InvalidRequest
from upweight.files.safetensors_file import tensor_of
from upweight.http.flow import Call, Flow, Work, segment
from upweight.progress import Bars, logger
from upweight.results.rows import RowChoice, record_of, rows_of, rows_text
from upweight.results.suspects import SuspectTable
from upweight.schema import DatasetRecord, DatasetRequest, DeriveRequest

if TYPE_CHECKING:
    from numpy.typing import NDArray


DATASETS = Resource("/v1/datasets", DatasetRecord)

Reference = str | DatasetRecord
NO_BLOB = "sha256:" + "0" * 64  # stands for what is not uploaded yet while the rest is checked


class Checked(NamedTuple):
    """Whether a worker's check is waited for, and how long: at most, and in one request."""

    wait: bool
    timeout: float | None
    hold: float


@dataclass(frozen=True)
class Description:
    """What a dataset is, apart from its bytes; and how long its check is waited for."""

    name: str
    inputs: Sequence[str] | str | None
    targets: Sequence[str] | str | None
    preview: Any
    class_names: Sequence[str]
    labels: Mapping[str, str] | None
    wait: bool
    timeout: float | None
    hold: float
    features: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    ids: Any = None
    metadata: Metadata = ()
    tokenizer: Any = None

    @property
    def metadata_names(self) -> tuple[str, ...]:
        """Of the metadata columns."""
        return (self.metadata,) if isinstance(self.metadata, str) else tuple(self.metadata)

    def filled(
        self, preview: Any, class_names: Sequence[str], features: Mapping[str, tuple[str, ...]]
    ) -> Description:
        """With what the data says of itself, where the caller said nothing."""
        return replace(
            self,
            preview=self.preview or preview,
            class_names=self.class_names or class_names,
            features=features,
        )

    def request(self, **source: Any) -> DatasetRequest:
        """The request, checked."""
        fields = {
            "name": self.name,
            "inputs": self.inputs,
            "targets": self.targets,
            "preview": self.preview,
            "class_names": tuple(self.class_names),
            "features": dict(self.features),
            "labels": dict(self.labels or {}),
            "ids": self.ids if isinstance(self.ids, str) else None,
            "metadata": self.metadata_names,
            "tokenizer": self.tokenizer,
            **source,
        }
        for columns in ("inputs", "targets"):
            if fields[columns] is None:
                del fields[columns]
            elif isinstance(fields[columns], str):
                fields[columns] = (fields[columns],)
        return validated(DatasetRequest, "/v1/datasets", fields)


def roles(
    names: list[str], inputs: Sequence[str] | str | None, targets: Sequence[str] | str | None
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Which columns are inputs and which are targets: `y` is the target unless something else is said."""
    given_in = (inputs,) if isinstance(inputs, str) else inputs
    given_out = (targets,) if isinstance(targets, str) else targets
    if given_out is None:
        given_out = [name for name in names if name == "y" and name not in (given_in or ())]
    if given_in is None:
        given_in = [name for name in names if name not in given_out]
    missing = sorted({*given_in, *given_out} - set(names))
    if missing:
        raise InvalidRequest(f"there is no column {missing[0]!r}; the columns are {names}")
    unused = [name for name in names if name not in (*given_in, *given_out)]
    if unused:
        raise InvalidRequest(
            f"column {unused[0]!r} is neither among the inputs {list(given_in)} nor the targets "
            f"{list(given_out)}; name it there or leave it out"
        )
    return tuple(given_in), tuple(given_out)


def register(
    bars: Bars,
    about: Description,
    data: Any,
    uri: str | None,
    format: str | None,
    arrays: Mapping[str, Any],
) -> Flow[DatasetRecord]:
    """Uploads what has to be, registers it, and waits for the check."""
    if is_column(about.ids, about.inputs, about.targets):
        about, arrays = replace(about, ids=None), {"ids": about.ids, **arrays}
    about = replace(about, preview=(yield from previews.written(about.preview, bars)))
    about = replace(about, tokenizer=(yield from previews.tokenizer(about.tokenizer, bars)))
    if uri is not None:
        request = _elsewhere(about, uri, format, data is not None or bool(arrays))
        return (yield from _registered(bars, about, request))
    files = files_of(data)
    if files is not None and isinstance(about.metadata, Mapping):
        raise InvalidRequest.field(
            "/metadata", "of files, name the columns that they have: metadata=['source']", None
        )
    if files is None or npy_columns(files) is not None:
        return (yield from register_rows(bars, about, data, files, arrays))
    return (yield from register_files(bars, about, files, format))


def register_rows(
    bars: Bars, about: Description, data: Any, files: list[Any] | None, arrays: Mapping[str, Any]
) -> Flow[DatasetRecord]:
    """Writes rows as shards, uploads and registers them, a shard at a time."""
    data = data if files is None else npy_columns(files)
    came: Incoming = yield Work(
        lambda: incoming(
            data,
            arrays,
            about.inputs,
            about.targets,
            about.class_names,
            about.ids,
            about.metadata,
        )
    )
    ids: NDArray[Any] | None = yield Work(lambda: None if came.ids is None else column_of(came.ids))
    beside: dict[str, NDArray[Any]] = yield Work(
        lambda: {
            str(name): metadata_column(str(name), each) for name, each in came.metadata.items()
        }
    )
    sent = 0
    about = replace(about, ids=None, metadata=tuple(beside))
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
            if ids is not None:
                about = replace(about, ids=free_name([*shard, *beside]))
                beside = {**beside, str(about.ids): ids}
            about.request(format="safetensors", inputs=inputs, targets=targets, blobs=(NO_BLOB,))
        label = (
            about.name
            if came.count == 1
            else f"{about.name} {len(digests) + 1}/{came.count or '?'}"
        )
        columns = {name: shard[name] for name in (*inputs, *targets)}
        some = len(next(iter(columns.values())).array)
        for name, column in beside.items():
            columns[name] = tensor_of(name, column[sent : sent + some])
        sent += some
        if any(sent > len(column) for column in beside.values()):
            break
        content = tensors_content(columns, label)
        blob = yield from put(content, bars)
        digests.append(blob.digest)
    for name, column in beside.items():
        if sent != len(column):
            more = "more" if sent > len(column) else "fewer"
            what = "ids" if name == about.ids else f"values of {name!r}"
            words = f"there are {len(column)} {what} and {more} rows; give one for each row"
            raise InvalidRequest.field("/ids" if name == about.ids else "/metadata", words, None)
    request = about.request(
        format="safetensors", inputs=inputs, targets=targets, blobs=tuple(digests)
    )
    if not targets:
        logger.warning(
            "%s has no target, which all losses but 'program' need: name its column y, or give targets=…",
            about.name,
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
    # An older service does not know of features, ids, metadata and tokenizers.
    later = ("features", "ids", "metadata", "tokenizer")
    unsaid = {name for name in later if not getattr(request, name)}
    body = request.model_dump(mode="json", exclude=unsaid)
    return (yield from DATASETS.create(body, bars, about.wait, about.timeout, about.hold))


def change(bars: Bars, dataset: Reference, preview: Any) -> Flow[DatasetRecord]:
    """Another preview."""
    body = {"preview": (yield from previews.written(preview, bars))}
    reply = yield Call("PATCH", f"{DATASETS.path}/{segment(reference(dataset))}", json=body)
    return reply.read(DatasetRecord)


def derive(
    bars: Bars,
    name: str,
    dataset: Reference,
    drop: Any,
    relabel: Mapping[Any, Any] | None,
    labels: Mapping[str, str] | None,
    checked: Checked,
) -> Flow[DatasetRecord]:
    """Derives a dataset from another, and waits for its check."""
    path = f"{DATASETS.path}/{segment(reference(dataset))}/derive"
    rows = None if drop is None else dropped_rows(drop)
    if isinstance(rows, np.ndarray):  # a mask
        record = dataset if isinstance(dataset, DatasetRecord) else (yield from record_of(dataset))
        numbers = np.flatnonzero(rows).tolist()
        # A list would name ids where there are some; text always names numbers.
        rows = numbers if record.ids is None or not numbers else rows_text(numbers)
    fields = {
        "name": name,
        "drop": rows,
        "relabel": {str(row): _plain(label) for row, label in dict(relabel or {}).items()},
        "labels": dict(labels or {}),
    }
    request = validated(DeriveRequest, path, fields)
    body = request.model_dump(mode="json")
    return (yield from DATASETS.create(body, bars, *checked, path=path))


def dropped_rows(rows: Any) -> str | list[Any] | NDArray[Any]:
    """Text and slices as text; ids and numbers one by one, for there may be many; a mask as it is."""
    if isinstance(rows, str | slice | range):
        return rows_text(rows)
    if isinstance(rows, SuspectTable):
        return list(rows.ids)
    values = np.atleast_1d(np.asarray(rows))
    if values.dtype == bool:
        return values
    if values.size and values.dtype.kind not in "iuUO":
        raise InvalidRequest.field(
            "/drop",
            f"rows are ids or integers in a list, a slice, or text like '0:100'; got {rows!r:.80}",
        )
    return list(values.ravel().tolist())


def _plain(label: Any) -> Any:
    """A label as JSON has it: of a number of NumPy's the number."""
    return label.item() if hasattr(label, "item") else label


def look(
    dataset: Reference,
    chosen: RowChoice | None,
    columns: Sequence[str] | str | None,
    where: Mapping[str, Any] | None,
) -> Flow[dict[str, NDArray[Any]]]:
    """Some rows, column by column."""
    record = dataset if isinstance(dataset, DatasetRecord) else (yield from record_of(dataset))
    names = [columns] if isinstance(columns, str) else columns
    query = row_query(record, chosen, where)
    return (yield from rows_of(record, query or [("rows", ":")], names))


def row_query(
    dataset: DatasetRecord, chosen: RowChoice | None, where: Mapping[str, Any] | None
) -> list[tuple[str, str]]:
    """The parameters that choose rows; none for all."""
    rows = selection(dataset, chosen, where)
    query = [("rows", rows["rows"])] if "rows" in rows else []
    query += [("id", str(id)) for id in rows.get("ids", ())]
    for column, values in rows.get("where", {}).items():
        query += [("where", f"{column}={json.dumps(value)}") for value in values]
    return query


@dataclass(frozen=True)
class Datasets(Registered[DatasetRecord]):
    """`client.datasets`."""

    _resource = DATASETS

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
        ids: Any = None,
        metadata: Metadata = (),
        tokenizer: Any = None,
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

        `preview` says how rows are shown:

        - pictures: `{"kind": "image", "column": "x", "shape": [8, 8]}`;
        - text: `{"kind": "text", "column": "tokens", "vocabulary": words}`, with a list, a dict or a tokenizer;
        - tables: `{"kind": "table", "column": "x", "names": […]}`, which a DataFrame has by itself.

        `ids`: strings or whole numbers, one a row and each once, that no model sees and every answer carries; or the
        name of their column. (With more axes, or where `inputs` or `targets` name it, `ids` is a column like
        others: token ids, say.) Without, a DataFrame's index where it says more than the row's number; else rows are
        named by their number.

        `metadata`: columns that no model sees and rows are chosen and grouped by: their names, as `["source"]`, or
        `{"source": [...]}`. Text, numbers or booleans, one value a row.

        `tokenizer`: what the rows' tokens were made with, so that they are shown as words: the path of a
        `tokenizer.json`, or a fast tokenizer. Tokens that it has not are refused.

        `uri`: a prefix of the object storage that the operator allows, with what `format` is there.
        """
        about = Description(name, inputs, targets, preview, class_names, labels, wait, timeout,
                            self._link.connection.hold, ids=ids,
                            metadata=metadata, tokenizer=tokenizer)  # fmt: skip
        return self._link.run(register(self._bars, about, data, uri, format, arrays))

    def derive(
        self,
        name: str,
        dataset: Reference,
        *,
        drop: Any = None,
        relabel: Mapping[Any, Any] | None = None,
        labels: Mapping[str, str] | None = None,
        wait: bool = True,
        timeout: float | None = None,
    ) -> DatasetRecord:
        """A dataset of another one's rows, without copying any: `derive("train-clean", train, drop=[3, 17])`.

        `drop`: rows to leave out: a list of ids, of rows' numbers where there are no ids, or `result.suspects(20)`;
        or numbers as a mask, a slice, or text like `"0:100"`. `relabel`: new labels by id, or number: `{17: 3}` or,
        where classes have names, `{17: "cat"}`. A name that exists gets a new version. The dataset it
        is derived from may be derived itself, and can't be deleted before it.
        """
        checked = Checked(wait, timeout, self._link.connection.hold)
        flow = derive(self._bars, name, dataset, drop, relabel, labels, checked)
        return self._link.run(flow)

    def change(self, dataset: Reference, *, preview: Any) -> DatasetRecord:
        """Changes how rows are shown, as `register` takes it; None leaves it to what the columns suggest."""
        return self._link.run(change(self._bars, dataset, preview))

    def rows(
        self,
        dataset: Reference,
        rows: RowChoice | None = None,
        columns: Sequence[str] | str | None = None,
        *,
        where: Mapping[str, Any] | None = None,
    ) -> dict[str, NDArray[Any]]:
        """Some rows, to look at: `rows("digits-train", "0:5")["x"]` is (5, …). `columns`: those alone, metadata too.

        `rows`: numbers, or ids in a list where these are strings. `where`: those alone with these values in columns of
        metadata, or targets: `{"source": ["web", "book"]}`.
        """
        return self._link.run(look(dataset, rows, columns, where))


@dataclass(frozen=True)
class AsyncDatasets(AsyncRegistered[DatasetRecord]):
    """`client.datasets` of an AsyncClient."""

    _resource = DATASETS

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
        ids: Any = None,
        metadata: Metadata = (),
        tokenizer: Any = None,
        wait: bool = True,
        timeout: float | None = None,
        **arrays: Any,
    ) -> DatasetRecord:
        """Registers rows and waits for the check: `register("digits-train", x=x_train, y=y_train)`.

        The rest is as for `Datasets.register`.
        """
        about = Description(name, inputs, targets, preview, class_names, labels, wait, timeout,
                            self._link.connection.hold, ids=ids,
                            metadata=metadata, tokenizer=tokenizer)  # fmt: skip
        return await self._link.run(register(self._bars, about, data, uri, format, arrays))

    async def derive(
        self,
        name: str,
        dataset: Reference,
        *,
        drop: Any = None,
        relabel: Mapping[Any, Any] | None = None,
        labels: Mapping[str, str] | None = None,
        wait: bool = True,
        timeout: float | None = None,
    ) -> DatasetRecord:
        """A dataset of another one's rows, without copying any: `derive("train-clean", train, drop=[3, 17])`.

        `drop`: rows to leave out: a list of ids, of rows' numbers where there are no ids, or `result.suspects(20)`;
        or numbers as a mask, a slice, or text like `"0:100"`. `relabel`: new labels by id, or number: `{17: 3}` or,
        where classes have names, `{17: "cat"}`. A name that exists gets a new version. The dataset it
        is derived from may be derived itself, and can't be deleted before it.
        """
        checked = Checked(wait, timeout, self._link.connection.hold)
        flow = derive(self._bars, name, dataset, drop, relabel, labels, checked)
        return await self._link.run(flow)

    async def change(self, dataset: Reference, *, preview: Any) -> DatasetRecord:
        """Changes how rows are shown, as `register` takes it; None leaves it to what the columns suggest."""
        return await self._link.run(change(self._bars, dataset, preview))

    async def rows(
        self,
        dataset: Reference,
        rows: RowChoice | None = None,
        columns: Sequence[str] | str | None = None,
        *,
        where: Mapping[str, Any] | None = None,
    ) -> dict[str, NDArray[Any]]:
        """Some rows, to look at: as `Datasets.rows`."""
        return await self._link.run(look(dataset, rows, columns, where))
