"""`upweight datasets`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from upweight.cli import choices, units
from upweight.cli.choices import Labels, Limit, Oldest, Timeout, Wait
from upweight.cli.shell import Shell
from upweight.cli.verb import group, verb

if TYPE_CHECKING:
    from upweight.schema import DatasetRecord

datasets = group("Datasets: rows in columns, inputs and targets.")

Reference = Annotated[str, typer.Argument(metavar="DATASET", help="Id, name, or name@version.")]


@verb(datasets, "list", "upweight datasets list --limit 10")
def show_all(
    shell: Shell,
    state: Annotated[str | None, typer.Option(help="checking, ready or rejected.")] = None,
    label: Labels = None,
    limit: Limit = 50,
    oldest_first: Oldest = False,
) -> None:
    """Show datasets, newest first."""
    found = shell.client.datasets.list(
        limit=limit or None,
        state=state,
        labels=choices.pairs(label, "--label"),
        order="asc" if oldest_first else "desc",
    )
    heads = ("NAME", "ID", "STATE", "ROWS", "SIZE", "CREATED")
    shell.list(found, heads, _row, "no datasets; register one: upweight datasets register --help")


@verb(datasets, "show", "upweight datasets show digits-train")
def show(shell: Shell, dataset: Reference) -> None:
    """Show one dataset: state, rows, columns, who uses it."""
    _show(shell, shell.client.datasets.get(dataset))


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
        labels=choices.pairs(label, "--label"),
        wait=wait,
        timeout=timeout,
    )
    _show(shell, record)


@verb(datasets, "delete", "upweight datasets delete digits-train@1")
def delete(
    shell: Shell,
    dataset: Annotated[list[str], typer.Argument(help="Ids, names, or name@version.")],
) -> None:
    """Delete datasets that no job uses."""
    for reference in dataset:
        shell.client.datasets.delete(reference)
        shell.say(f"deleted {reference}")


def _row(record: DatasetRecord) -> tuple[str, ...]:
    return (
        f"{record.name}@{record.version}",
        record.id,
        str(record.state),
        units.count(record.rows),
        units.size(record.size_bytes),
        units.age(record.created_at),
    )


def _show(shell: Shell, record: DatasetRecord) -> None:
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
    shell.record(
        record,
        [
            ("id", record.id),
            ("name", f"{record.name}@{record.version}"),
            ("state", str(record.state)),
            ("problem", record.problem.detail if record.problem else ""),
            ("rows", units.count(record.rows)),
            *columns,
            ("classes", ", ".join(record.class_names)),
            ("format", record.format),
            ("uri", record.uri or ""),
            ("shards", units.count(len(record.blobs or ()))),
            ("size", units.size(record.size_bytes)),
            ("digest", record.digest),
            ("labels", ", ".join(f"{key}={value}" for key, value in record.labels.items())),
            ("created", units.age(record.created_at)),
            ("used by", ", ".join(record.used_by)),
        ],
    )
