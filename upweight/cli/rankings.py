"""`upweight results top`, `bm25`, `suspects` and `rows`: rows in order of what was computed of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from upweight.cli import table
from upweight.cli.shell import Shell
from upweight.cli.verb import JobArgument

if TYPE_CHECKING:
    from collections.abc import Sequence

    from upweight.schema import Matched, PredictedRow, Ranked

Damping = Annotated[
    float | None, typer.Option("--damping", "--lambda", help="One λ of a job that has several.")
]
TestRow = Annotated[int | None, typer.Option(help="Row of the matrix; without, the mean over all.")]
HowMany = Annotated[int, typer.Option("-k", help="How many.", min=1)]


def top(
    shell: Shell,
    job: JobArgument,
    test: TestRow = None,
    k: HowMany = 10,
    sign: Annotated[
        str | None, typer.Option(help="helpful, harmful, lowers or raises; helpful by default.")
    ] = None,
    words: Annotated[
        bool, typer.Option("--words", help="With the text of each row, of a dataset of tokens.")
    ] = False,
    damping: Damping = None,
) -> None:
    """Show the training rows that helped or harmed most, the strongest first."""
    if sign not in (None, "helpful", "harmful", "lowers", "raises"):
        raise typer.BadParameter(
            f"{sign!r} is neither 'helpful' nor 'harmful', 'lowers' or 'raises'",
            param_hint="--sign",
        )
    result = ranked_by(shell, job, "top", damping)
    ranking = result.top(test, k, sign, words)
    if shell.as_json:
        shell.document(ranking)
        return
    _show([(each, f"{each.influence:+.6g}") for each in ranking.items], "INFLUENCE")


def bm25(
    shell: Shell,
    job: JobArgument,
    test: TestRow = None,
    k: HowMany = 10,
    words: Annotated[bool, typer.Option("--words", help="With the text of each row.")] = False,
) -> None:
    """Show the training rows that share the most telling tokens with test rows, beside `top`."""
    result = ranked_by(shell, job, "bm25")
    ranking = result.bm25(test, k, words)
    if shell.as_json:
        shell.document(ranking)
        return
    _show([(each, f"{each.score:.6g}") for each in ranking.items], "BM25")


def suspects(
    shell: Shell,
    job: JobArgument,
    k: HowMany = 20,
    damping: Damping = None,
) -> None:
    """Show the training rows whose labels deserve a look, the most suspect first; low scores are suspect."""
    result = ranked_by(shell, job, "suspects", damping)
    found = result.suspects(k)
    if shell.as_json:
        for item in found.items:
            shell.document(item)
        return
    names = shell.client.datasets.get(result.job.train_id).class_names
    table.show(
        ("ID", "ROW", "SCORE", "LABEL", "PREDICTED"),
        [
            (
                str(item.id),
                str(item.row),
                f"{item.score:.4f}",
                *_classes((item.label, item.predicted), names),
            )
            for item in found.items
        ],
    )


def rows(
    shell: Shell,
    job: JobArgument,
    rows: Annotated[
        str | None, typer.Option(help="Positions in the result: 0:10, 3,5; without, all.")
    ] = None,
    side: Annotated[str, typer.Option(help="test or train.")] = "test",
    sort: Annotated[
        str, typer.Option(help="position, loss or error; with a - in front from the largest.")
    ] = "position",
    offset: Annotated[int, typer.Option(help="So many are passed over.", min=0)] = 0,
    limit: Annotated[int, typer.Option(help="So many at most.", min=1, max=1000)] = 20,
) -> None:
    """Show what the model makes of rows: loss, prediction, target."""
    if side not in ("test", "train"):
        raise typer.BadParameter(f"{side!r} is neither test nor train", param_hint="--side")
    result = shell.client.jobs.result(job)
    if not hasattr(result, "rows"):
        raise typer.BadParameter(
            f"{job} computed {result.job.request.kind}, which keeps no predictions"
        )
    found = result.rows(rows, side=side, sort=sort, offset=offset, limit=limit)
    if shell.as_json:
        for item in found.items:
            shell.document(item)
        return
    own = result.job.test_id if side == "test" else result.job.train_id
    names = shell.client.datasets.get(own).class_names if own else []
    heads = ("POSITION", "ROW", "ID", "LOSS", "ERROR", "PREDICTED", "TARGET")
    table.show(heads, [_predicted(item, names) for item in found.items])
    if len(found.items) < found.total:
        shell.say(f"{len(found.items)} of {found.total}; --limit and --offset show others")


def result_of(shell: Shell, job: str, damping: float | None) -> Any:
    """With one of its λ's, where that is said."""
    result = shell.client.jobs.result(job)
    return result if damping is None else result.at(damping=damping)


def ranked_by(shell: Shell, job: str, method: str, damping: float | None = None) -> Any:
    """The result, which has this method that ranks rows."""
    result = result_of(shell, job, damping)
    if not hasattr(result, method):
        raise typer.BadParameter(f"{job} computed {result.job.request.kind}, which rank no rows")
    return result


def _classes(values: Sequence[float | None], names: Sequence[str]) -> tuple[str, ...]:
    """Labels and predictions, by the classes' names where they have some."""
    return tuple(
        ""
        if value is None
        else names[int(value)]
        if names and value == int(value) and 0 <= value < len(names)
        else f"{value:g}"
        for value in values
    )


def _predicted(item: PredictedRow, names: Sequence[str]) -> tuple[str, ...]:
    numbers = ("" if each is None else f"{each:.4g}" for each in (item.loss, item.error))
    called = "" if item.id is None else str(item.id)
    return (
        str(item.position),
        str(item.row),
        called,
        *numbers,
        *_classes((item.prediction, item.target), names),
    )


def _show(ranked: Sequence[tuple[Ranked | Matched, str]], head: str) -> None:
    """Row, id where it is another one, a number, text where there is some."""
    has_ids = any(item.id not in (None, item.row) for item, _ in ranked)
    has_texts = any(item.text is not None for item, _ in ranked)
    lines = [
        (
            str(item.row),
            *([str(item.id)] if has_ids else []),
            number,
            *([item.text or ""] if has_texts else []),
        )
        for item, number in ranked
    ]
    heads = ("ROW", *(["ID"] if has_ids else []), head, *(["TEXT"] if has_texts else []))
    table.show(heads, lines)
