"""`upweight indexes`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from upweight.cli import choices, units
from upweight.cli.choices import Limit
from upweight.cli.following import ended, watched
from upweight.cli.shell import Shell
from upweight.cli.verb import group, verb

if TYPE_CHECKING:
    from upweight.schema import Explained, IndexProgress, JobRecord

indexes = group("Indexes: which training rows help and harm rows that come later, at once.")
Named = Annotated[str, typer.Argument(metavar="INDEX", help="Id, or the newest of a name.")]


@verb(indexes, "create", "upweight indexes create digits digits-mlp digits-train")
def create(
    shell: Shell,
    name: Annotated[str, typer.Argument(help="What people call it.")],
    model: Annotated[str, typer.Argument(help="Id, name, or name@version.")],
    train: Annotated[str, typer.Argument(help="The dataset whose rows are found.")],
    train_rows: Annotated[str | None, typer.Option(help="Some of its rows: 0:1000, ::10.")] = None,
    dimension: Annotated[
        int | None, typer.Option(help="Numbers of a row, a layer on the mean; 512 by default.")
    ] = None,
    projection: Annotated[
        str | None,
        typer.Option(help="eigenvectors (the default), or random: built faster, finds fewer."),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Of drawn labels and of a random projection.")
    ] = None,
    stored_as: Annotated[
        str | None, typer.Option(help="What each is stored as: float16 (the default), or int8.")
    ] = None,
    curvature: Annotated[
        str | None, typer.Option(help="ekfac (the default), kfac, layers, diagonal, or a kind.")
    ] = None,
    regularization: Annotated[
        str | None,
        typer.Option("--regularization", "--lambda", help="λ: a number, or auto (the default)."),
    ] = None,
    extends: Annotated[
        str | None, typer.Option(help="An index whose rows are the first of these.")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until it is there.")] = True,
) -> None:
    """Make an index of a model's training rows."""
    from upweight.client.indexes import request_of

    if extends is not None and not extends.startswith("job_"):
        extends = shell.client.indexes.get(extends).id
    fields = request_of(
        name, model, train, train_rows=train_rows, dimension=dimension, projection=projection,
        stored_as=stored_as, curvature=curvature,
        hessian_regularization=None if regularization is None else choices.damping(regularization),
        extends=extends, **({} if seed is None else {"seed": seed}),
    )  # fmt: skip
    record = shell.client.jobs.create(fields)
    if wait:
        record = watched(shell, record.id)
        ended(shell, record)
    if shell.as_json:
        if not wait:
            shell.document(record)
        return
    print(record.id)
    shell.say(told(record))


@verb(indexes, "list", "upweight indexes list")
def show_all(
    shell: Shell,
    model: Annotated[str | None, typer.Option(help="Indexes of this model.")] = None,
    limit: Limit = 50,
) -> None:
    """Show indexes, newest first."""
    heads = ("ID", "STATE", "NAME", "ROWS", "NUMBERS", "RECALL", "SIZE", "CREATED")
    found = shell.client.indexes.list(model=model, limit=limit or None)
    shell.list(found, heads, _row, "no indexes; make one: upweight indexes create --help")


@verb(indexes, "show", "upweight indexes show digits")
def show(shell: Shell, index: Named) -> None:
    """Show one index: what is kept of each layer, and how near its answers are to exact ones."""
    record = shell.client.indexes.get(index).job
    known = _known(record)
    pairs = [
        ("id", record.id),
        ("name", record.name or ""),
        ("state", str(record.state)),
        ("failed", record.problem.detail if record.problem else ""),
        ("answers", told(record)),
        *(
            (str(each["layer"]), f"{each['numbers']:,} of {each['parameters']:,} numbers")
            for each in known.get("layers", [])
        ),
    ]
    shell.record(record, pairs)


@verb(
    indexes,
    "query",
    """
    upweight indexes query digits --test digits-test --rows 3
    upweight indexes query digits --columns '{"x": [[0.1, 0.2]], "y": [1]}' -k 5
    upweight indexes query films --text 'what a lovely film' --columns '{"y": [1]}'
    """,
)
def query(
    shell: Shell,
    index: Named,
    columns: Annotated[
        str | None,
        typer.Option(help="The rows as JSON, column by column, or a .json or .npz file of them."),
    ] = None,
    text: Annotated[
        list[str] | None,
        typer.Option(help="Or a text, once or more often, where the dataset has its tokenizer."),
    ] = None,
    test: Annotated[str | None, typer.Option(help="Or a dataset that has them.")] = None,
    rows: Annotated[str | None, typer.Option(help="Which of its rows: 3, 0:5.")] = None,
    k: Annotated[int, typer.Option("-k", help="Training rows of each sign.")] = 10,
    candidates: Annotated[
        int, typer.Option(help="That are scored exactly; 0: by the index's numbers alone.")
    ] = 500,
    model: Annotated[str | None, typer.Option(help="The version that is meant.")] = None,
    follow: Annotated[bool, typer.Option("--follow", help="Tell what goes on meanwhile.")] = False,
) -> None:
    """Ask which training rows help and which harm some rows; positive helps."""
    chosen = None
    if test is not None:
        chosen = {"dataset": test, **({} if rows is None else {"rows": rows})}
    found = shell.client.indexes.get(index).query(
        columns=_columns(columns),
        text=text or None,
        test=chosen,
        k=k,
        candidates=candidates,
        model=model,
    )
    if shell.as_json:
        for each in found:
            shell.document(each)
        return
    from upweight.cli.table import show

    heads = ("ASKED", "HELPFUL ROW", "ID", "INFLUENCE", "HARMFUL ROW", "ID", "INFLUENCE")
    show(heads, [line for at, each in enumerate(found) for line in _lines(at, each)])


@verb(indexes, "delete", "upweight indexes delete digits")
def delete(
    shell: Shell,
    index: Annotated[list[str], typer.Argument(metavar="INDEX…", help="Ids or names.")],
) -> None:
    """Delete indexes and what they have stored."""
    for each in index:
        shell.client.indexes.delete(each)
        shell.say(f"deleted {each}")


def _going_on(heard: IndexProgress) -> str:
    if heard.stage == "queued":
        return f"waiting for a worker; {heard.total} before it"
    return f"{heard.stage} {heard.done:,} of {heard.total:,} {heard.unit}"


def told(record: JobRecord) -> str:
    """How near the answers are to exact ones, in a line."""
    known = _known(record)
    if not known:
        return ""
    numbers = {
        name: "not known" if known[name] is None else f"{known[name]:.3f}"
        for name in ("recall", "recall_after_rerank", "rank_correlation")
    }
    stored = f" in {known['stored_as']}" if "stored_as" in known else ""
    stored += ", a random projection" if known.get("projection") == "random" else ""
    return (
        f"{known['numbers']:,} numbers a row{stored}; recall at {known['recall_at']}: "
        f"{numbers['recall']} by them alone, "
        f"{numbers['recall_after_rerank']} after {known['candidates']:,} candidates are scored exactly; rank "
        f"correlation {numbers['rank_correlation']}"
    )


def _known(record: JobRecord) -> dict[str, Any]:
    found = (record.info or {}).get("index")
    return found if isinstance(found, dict) else {}


def _row(record: JobRecord) -> tuple[str, ...]:
    known = _known(record)
    recall = known.get("recall_after_rerank")
    return (
        record.id,
        str(record.state),
        record.name or "",
        units.count(known["rows"]) if "rows" in known else "",
        units.count(known["numbers"]) if known else "",
        "" if recall is None else f"{recall:.3f}",
        units.size(record.result.size_bytes) if record.result else "",
        units.age(record.created_at),
    )


def _lines(at: int, found: Explained) -> list[tuple[str, ...]]:
    pairs = zip(found.helpful, found.harmful, strict=False)
    return [
        (
            str(at),
            *(
                text
                for each in pair
                for text in (str(each.row), str(each.id), f"{each.influence:.4g}")
            ),
        )
        for pair in pairs
    ]


def _columns(given: str | None) -> dict[str, Any] | None:
    """From JSON, a file of it, or an .npz file."""
    if given is not None and given.endswith(".npz"):
        import numpy as np

        choices.existing([given])
        with np.load(Path(given), allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    found: dict[str, Any] | None = choices.document(given, "--columns")
    return found
