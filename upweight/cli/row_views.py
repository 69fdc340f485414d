"""Rows of a dataset in a shell: a table as its preview says, pictures in shades, documents for programs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import typer

from upweight.cli.shell import Shell
from upweight.cli.slices import chosen
from upweight.tokens import text_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from upweight import Client
    from upweight.schema import DatasetRecord

    Found = Mapping[str, NDArray[Any]]

MOST_ROWS = 1000  # in one answer: more is for `jq` over several, or for the SDK
MOST_FEATURES = 12  # of a table's row, side by side
MOST_WORDS = 40
SHADES = " ░▒▓█"


def looked_up(text: str, total: int | None) -> Sequence[int]:
    """The rows' numbers. Raises BadParameter where there are too many, ValueError for bad grammar."""
    rows = chosen(text, total or 0)
    if not rows or len(rows) > MOST_ROWS:
        raise typer.BadParameter(
            f"{text!r} names {len(rows):,} of {total or 0:,} rows; choose 1 to {MOST_ROWS:,}: "
            "0:10, 3,5, ::100",
            param_hint="ROWS",
        )
    return rows


def named(
    shell: Shell,
    record: DatasetRecord,
    rows: str | None,
    ids: list[str] | None,
    where: Mapping[str, list[Any]],
    limit: int,
) -> Sequence[int]:
    """The numbers of rows by id, or by what is in columns; of the latter `limit` at most, and how many more is said."""
    from upweight.client.datasets import row_query
    from upweight.results.rows import named_rows

    if ids is not None and rows is not None:
        raise typer.BadParameter("they choose the same as ROWS; give one", param_hint="--ids")
    wanted: Any = ids if ids is not None and record.ids is not None else rows
    if ids is not None and record.ids is None:
        wanted = ",".join(ids)  # rows are named by their numbers
    query = row_query(record, None if wanted is None else wanted, where or None)
    column = next(iter(where), record.ids or record.inputs[0])
    found = shell.client._link.run(named_rows(record, query, column)).rows
    if not found:
        raise typer.BadParameter(f"no row of {record.name} is meant", param_hint="--where")
    shown = found[:limit] if where and limit else found
    if len(shown) < len(found):
        shell.say(f"the first {len(shown):,} of {len(found):,} rows; --limit 0 shows all")
    return shown


def ids_of(shell: Shell, record: DatasetRecord, rows: str) -> Sequence[int | str] | None:
    """What the rows are called, in a dataset that has ids."""
    from upweight.results.rows import named_rows

    if record.ids is None:
        return None
    return shell.client._link.run(named_rows(record, [("rows", rows)], record.ids)).ids


def documents(
    rows: Sequence[int], found: Found, ids: Sequence[int | str] | None
) -> Iterator[dict[str, Any]]:
    """One a row, with all that it holds."""
    for at, row in enumerate(rows):
        called = {} if ids is None else {"id": ids[at]}
        values = {name: values[at].tolist() for name, values in found.items()}
        yield {"row": row, **called, **values}


def vocabulary(client: Client, record: DatasetRecord) -> list[str] | None:
    """The words that tokens stand for, where the preview names some."""
    digest = getattr(record.preview, "vocabulary", None)
    return json.loads(client.blobs.get(digest)) if digest else None


def as_table(
    record: DatasetRecord,
    rows: Sequence[int],
    found: Found,
    words: list[str] | None,
    ids: Sequence[int | str] | None,
) -> tuple[list[str], list[list[str]]]:
    """Heads and cells: a column of a table is spread over its features, all else has one cell."""
    heads, cells = ["ROW"], [[str(row)] for row in rows]
    if ids is not None:
        heads.append("ID")
        for line, id in zip(cells, ids, strict=True):
            line.append(str(id))
    for name, values in found.items():
        own, texts = _column(record, name, values, words)
        heads += own
        for line, some in zip(cells, texts, strict=True):
            line += some
    return heads, cells


def _column(
    record: DatasetRecord, name: str, values: NDArray[Any], words: list[str] | None
) -> tuple[list[str], Iterable[list[str]]]:
    preview: Any = record.preview
    previewed = preview is not None and preview.column == name
    if previewed and preview.kind == "table" and values.ndim == 2:
        return _features(preview.names, name, values)
    if previewed and preview.kind == "text":
        return [name], [[text_of(row.ravel().tolist(), words, MOST_WORDS)] for row in values]
    return [name], [[_in_words(record, name, row)] for row in values]


def _features(
    names: Sequence[str], column: str, values: NDArray[Any]
) -> tuple[list[str], Iterable[list[str]]]:
    shown = min(values.shape[1], MOST_FEATURES)
    heads = [names[at] if at < len(names) else f"{column}[{at}]" for at in range(shown)]
    left = values.shape[1] - shown
    more = [f"… {left} more"] if left else []
    cells = (
        [*(f"{value:.4g}" for value in row[:shown]), *([""] if more else [])] for row in values
    )
    return [*heads, *more], cells


def _in_words(record: DatasetRecord, name: str, row: Any) -> str:
    from upweight.results.pictures.look import label, words

    if name in record.metadata:
        return str(row)
    if name in record.targets:
        return label(row, record)
    return words(row, None)


def pictures(record: DatasetRecord, rows: Sequence[int], found: Found) -> Iterator[str]:
    """Each row as lines of characters, the brighter the fuller. Raises BadParameter where rows are no pictures."""
    from upweight.results.pictures.look import grey, label, pixels
    from upweight.schema import ImagePreview

    preview = record.preview
    if not isinstance(preview, ImagePreview) or preview.column not in found:
        raise typer.BadParameter(
            f"the rows of {record.name} are no pictures: its preview is "
            f"{'none' if preview is None else preview.kind}",
            param_hint="--draw",
        )
    targets = [name for name in record.targets if name in found]
    for at, row in enumerate(rows):
        image = pixels(found[preview.column][at], preview)
        # Two characters a pixel: they are twice as high as wide.
        lines = [
            "".join(2 * SHADES[int(value) * len(SHADES) // 256] for value in line)
            for line in grey(image)
        ]
        targets_text = "".join(f", {name} {label(found[name][at], record)}" for name in targets)
        yield "\n".join([f"row {row}{targets_text}", *(line.rstrip() for line in lines)])
