"""Datasets: `client.datasets`, which registers them, derives one from another, and shows their rows."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import upweight.client.previews as previews
import upweight.late.numpy as np
from upweight.client.dataset_registration import DATASETS, Description, register
from upweight.client.intake import Metadata
from upweight.client.registered import AsyncRegistered, Registered
from upweight.client.request import reference, selection, validated
from upweight.errors import InvalidRequest
from upweight.http.flow import Call, Flow, segment
from upweight.progress import Bars
from upweight.results.rows import RowChoice, record_of, rows_of, rows_text
from upweight.results.suspects import SuspectTable
from upweight.schema import DatasetRecord, DeriveRequest

if TYPE_CHECKING:
    from numpy.typing import NDArray


Reference = str | DatasetRecord


class Checked(NamedTuple):
    """Whether a worker's check is waited for, and how long: at most, and in one request."""

    wait: bool
    timeout: float | None
    hold: float


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
        numbers = marked(rows, record)
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
    if values.ndim > 1:
        words = "rows are named on one axis, not by a table; take its column of ids: table['id']"
        raise InvalidRequest.field("/drop", words, None)
    if values.size and values.dtype.kind not in "iuUO":
        raise InvalidRequest.field(
            "/drop",
            f"rows are ids or integers in a list, a slice, or text like '0:100'; got {rows!r:.80}",
        )
    return list(values.ravel().tolist())


def marked(mask: NDArray[Any], dataset: DatasetRecord) -> list[int]:
    """The rows that a mask names. Raises InvalidRequest where it is not as long as the dataset."""
    if mask.shape != (dataset.rows,):
        raise InvalidRequest.field(
            "/drop",
            f"a mask has an entry for each row: it has {mask.size}, and {dataset.name!r} has {dataset.rows} rows",
            None,
        )
    return list(np.flatnonzero(mask).tolist())


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

        `drop`: rows to leave out: a list of ids, of rows' numbers where ids are texts or there are none, or
        `result.suspects(20)`; or numbers as a mask, a slice, or text like `"0:100"`. `relabel`: new labels by id, or
        number where there are no ids: `{17: 3}` or, where classes have names, `{17: "cat"}`. A name that exists gets
        a new version. The dataset it is derived from may be derived itself, and can't be deleted before it.
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

        `drop`: rows to leave out: a list of ids, of rows' numbers where ids are texts or there are none, or
        `result.suspects(20)`; or numbers as a mask, a slice, or text like `"0:100"`. `relabel`: new labels by id, or
        number where there are no ids: `{17: 3}` or, where classes have names, `{17: "cat"}`. A name that exists gets
        a new version. The dataset it is derived from may be derived itself, and can't be deleted before it.
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
