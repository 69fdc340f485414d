"""`upweight datasets`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from upweight.cli import choices, table, units
from upweight.cli.choices import Labels, Timeout, Wait
from upweight.cli.registered import Reference, RegisteredCommands
from upweight.cli.row_views import (
    as_table,
    documents,
    ids_of,
    looked_up,
    named,
    pictures,
    vocabulary,
)
from upweight.cli.shell import Shell
from upweight.cli.verb import group, verb

if TYPE_CHECKING:
    from upweight.schema import DatasetRecord

datasets = group("Datasets: rows in columns, inputs and targets.")


def _cells(record: DatasetRecord) -> tuple[str, ...]:
    return (units.count(record.rows), units.size(record.size_bytes))


def _details(record: DatasetRecord) -> list[tuple[str, str]]:
    metadata = ", ".join(f"{each.name} ({each.kind})" for each in record.metadata_columns)
    roles = {
        **dict.fromkeys(record.inputs, "input"),
        **dict.fromkeys(record.targets, "target"),
    }
    columns = [
        (
            roles.get(column.name, "column"),
            f"{column.name} ({units.shape(column.shape)}) {column.dtype}"
            + ("" if column.minimum is None else f", {column.minimum:g} to {column.maximum:g}"),
        )
        for column in record.columns
    ]
    derived = record.derived_from
    changes = derived and f", {derived.dropped} rows fewer, {derived.relabelled} labels replaced"
    return [
        ("rows", units.count(record.rows)),
        ("derived from", f"{derived.dataset}{changes}" if derived else ""),
        *columns,
        ("ids", f"{record.ids} ({record.id_kind})" if record.ids else ""),
        ("metadata", metadata),
        ("classes", ", ".join(record.class_names)),
        ("format", record.format),
        ("uri", record.uri or ""),
        ("shards", units.count(len(record.blobs or ()))),
    ]


REGISTERED = RegisteredCommands("datasets", "digits-train", ("ROWS", "SIZE"), _cells, _details)
REGISTERED.add_verbs(datasets)


@verb(
    datasets,
    "register",
    """
    upweight datasets register digits-train x.npy y.npy
    upweight datasets register wine part-0.parquet part-1.parquet --inputs x --targets quality
    upweight datasets register big --uri s3://bucket/train --format parquet
    """,
)
def register(
    shell: Shell,
    name: Annotated[str, typer.Argument(help="Its name; a new version if there is one.")],
    files: Annotated[
        list[str] | None,
        typer.Argument(help="safetensors, npz or parquet: shards in order; .npy: one a column."),
    ] = None,
    uri: Annotated[
        str | None, typer.Option(help="What lies in the object storage already.")
    ] = None,
    format: Annotated[str | None, typer.Option(help="safetensors, npz or parquet.")] = None,
    inputs: Annotated[str | None, typer.Option(help="Columns with commas between them.")] = None,
    targets: Annotated[str | None, typer.Option(help="Columns; '' means none.")] = None,
    preview: Annotated[
        str | None,
        typer.Option(help='JSON: \'{"kind": "image", "column": "x", "shape": [8, 8]}\'.'),
    ] = None,
    class_names: Annotated[str | None, typer.Option(help="Names with commas between them.")] = None,
    ids: Annotated[str | None, typer.Option(help="The column with the rows' ids.")] = None,
    metadata: Annotated[
        str | None, typer.Option(help="Columns that no model sees, with commas between them.")
    ] = None,
    tokenizer: Annotated[
        str | None, typer.Option(help="The tokenizer.json of the rows' tokens, or its folder.")
    ] = None,
    label: Labels = None,
    wait: Wait = True,
    timeout: Timeout = None,
) -> None:
    """Upload files, or name what is stored already, and wait until a worker has checked them."""
    if not files and uri is None:
        raise typer.BadParameter("give files, or --uri for what is stored already")
    found: Any = choices.existing(files) if files else None
    record = shell.client.datasets.register(
        name,
        found,
        uri=uri,
        format=format,
        inputs=choices.names(inputs),
        targets=choices.names(targets),
        preview=choices.document(preview, "--preview"),
        class_names=choices.names(class_names) or (),
        ids=ids,
        metadata=choices.names(metadata) or (),
        tokenizer=tokenizer,
        labels=choices.pairs(label, "--label"),
        wait=wait,
        timeout=timeout,
    )
    REGISTERED.show(shell, record)


@verb(
    datasets,
    "derive",
    """
    upweight datasets derive digits-clean digits-train --drop 3,17,100:120
    upweight datasets derive digits-clean digits-train --relabel 17=3 --relabel 40=8
    """,
)
def derive(
    shell: Shell,
    name: Annotated[str, typer.Argument(help="Its name; a new version if there is one.")],
    reference: Reference,
    drop: Annotated[
        str | None, typer.Option(help="Rows to leave out: 3,5,100:200, or a file of ids.")
    ] = None,
    relabel: Annotated[
        list[str] | None, typer.Option(metavar="ID=LABEL", help="A new label; as often as needed.")
    ] = None,
    label: Labels = None,
    wait: Wait = True,
    timeout: Timeout = None,
) -> None:
    """Make a dataset of another one's rows, without some of them or with other labels; no data are copied."""
    parent = shell.client.datasets.get(reference)
    rows: Any = choices.rows(drop)
    if isinstance(rows, list) and parent.id_kind != "text":
        rows = choices.whole_numbers(rows, "--drop")
    record = shell.client.datasets.derive(
        name,
        parent,
        drop=rows,
        relabel=choices.values(relabel, "--relabel"),
        labels=choices.pairs(label, "--label"),
        wait=wait,
        timeout=timeout,
    )
    REGISTERED.show(shell, record)


@verb(
    datasets,
    "change",
    """
    upweight datasets change digits-train --preview '{"kind": "image", "column": "x", "shape": [8, 8]}'
    """,
)
def change(
    shell: Shell,
    reference: Reference,
    preview: Annotated[
        str, typer.Option(help="JSON, or a file of it; null leaves it to what the columns suggest.")
    ],
) -> None:
    """Change how a dataset's rows are shown."""
    shown = None if preview == "null" else choices.document(preview, "--preview")
    REGISTERED.show(shell, shell.client.datasets.change(reference, preview=shown))


@verb(
    datasets,
    "rows",
    """
    upweight datasets rows digits-train 0:5
    upweight datasets rows digits-train 3,17 --columns y --json
    upweight datasets rows reviews --where source=web --where source=book --limit 50
    upweight datasets rows digits-test 0:3 --draw
    """,
)
def rows(
    shell: Shell,
    reference: Reference,
    chosen: Annotated[
        str | None,
        typer.Argument(
            metavar="ROWS",
            help="0:10, 3,5, ::100; counted from 0. The first ten, or with --where the first ten of these.",
        ),
    ] = None,
    ids: Annotated[
        str | None, typer.Option(help="Rows by their ids, with commas between them.")
    ] = None,
    where: Annotated[
        list[str] | None,
        typer.Option(metavar="COLUMN=VALUE", help="Rows by metadata or label. Repeatable."),
    ] = None,
    limit: Annotated[
        int, typer.Option(help="Of --where so many at most; 0 means all.", min=0)
    ] = 10,
    columns: Annotated[
        str | None, typer.Option(help="Columns with commas between them; without, all.")
    ] = None,
    draw: Annotated[
        bool, typer.Option("--draw", help="Pictures, in shades of characters.")
    ] = False,
) -> None:
    """Look at rows: a table as the dataset's preview says, whole rows with --json."""
    record = shell.client.datasets.get(reference)
    filters = choices.filters(where, "--where")
    if ids is not None or filters:
        numbers = named(shell, record, chosen, choices.names(ids), filters, limit)
        chosen = ",".join(map(str, numbers))
    chosen = chosen or "0:10"
    numbers = looked_up(chosen, record.rows)
    found = shell.client.datasets.rows(record, chosen, choices.names(columns))
    called = ids_of(shell, record, chosen)
    if shell.as_json:
        for document in documents(numbers, found, called):
            shell.document(document)
    elif draw:
        print("\n\n".join(pictures(record, numbers, found)))
    else:
        table.show(*as_table(record, numbers, found, vocabulary(shell.client, record), called))
