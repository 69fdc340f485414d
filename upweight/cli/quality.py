"""`upweight evaluate`, and `upweight tune`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from upweight.cli import choices
from upweight.cli.choices import Labels, Timeout
from upweight.cli.shell import Shell
from upweight.cli.verb import JobArguments

if TYPE_CHECKING:
    from upweight.results.quality import QualityTable
    from upweight.schema import QualityRow

# What both take.
Subsets = Annotated[int, typer.Option(help="Random subsets that are trained on.")]
Share = Annotated[float, typer.Option(help="Of the training rows that a subset has.")]
Repeats = Annotated[int, typer.Option(help="Trainings of each, with other seeds.")]
Seed = Annotated[int, typer.Option(help="Of the subsets.")]
Wrong = Annotated[
    str | None, typer.Option(help="For mislabel: rows whose labels are wrong, 3,17,20:30.")
]
K = Annotated[int | None, typer.Option(help="Rows removed, or stepped on.")]
LeftOut = Annotated[int | None, typer.Option(help="For loo: rows that are left out, one by one.")]
Queries = Annotated[
    int | None, typer.Option(help="Test rows that brittleness and tail_patch look at.")
]
RecipeText = Annotated[
    str | None, typer.Option(help="JSON, or a file of it, in place of the model's own.")
]
Baselines = Annotated[bool, typer.Option(help="Plain scores beside.")]
Precision = Annotated[str | None, typer.Option(help="float32 or float64.")]
Priority = Annotated[str | None, typer.Option(help="high, default or low.")]
TimeLimit = Annotated[int | None, typer.Option(help="Seconds that each job may run.")]
Column = Annotated[
    list[str] | None, typer.Option(help="INPUT=COLUMN where names differ. Repeatable.")
]
Name = Annotated[str | None, typer.Option(help="What you call the job.")]
Note = Annotated[str | None, typer.Option(help="What there is to say about it.")]
Plot = Annotated[Path | None, typer.Option(help="A picture: quality.png.")]


def evaluate(
    shell: Shell,
    jobs: JobArguments,
    measure: Annotated[
        str, typer.Option(help="lds, loo, mislabel, brittleness, tail_patch; several with commas.")
    ] = "lds",
    subsets: Subsets = 100,
    share: Share = 0.5,
    repeats: Repeats = 2,
    seed: Seed = 0,
    wrong: Wrong = None,
    k: K = None,
    left_out: LeftOut = None,
    queries: Queries = None,
    recipe: RecipeText = None,
    baselines: Baselines = True,
    precision: Precision = None,
    priority: Priority = None,
    time_limit: TimeLimit = None,
    label: Labels = None,
    column: Column = None,
    name: Name = None,
    note: Note = None,
    timeout: Timeout = None,
    plot: Plot = None,
) -> None:
    """Hold results against retraining; print a table with intervals."""
    table = shell.client.evaluate(
        jobs,
        [each.strip() for each in measure.split(",")],  # type: ignore[misc]
        subsets=subsets, share=share, seed=seed, repeats=repeats, baselines=baselines,
        **_given(wrong=wrong, k=k, left_out=left_out, queries=queries,
                 recipe=choices.document(recipe, "--recipe"), precision=precision, priority=priority,
                 timeout_s=time_limit, labels=choices.pairs(label, "--label") or None,
                 columns=choices.pairs(column, "--column") or None, name=name, note=note,
                 timeout=timeout),
    )  # fmt: skip
    shown(shell, table, plot)


def tune(
    shell: Shell,
    model: Annotated[str, typer.Argument(help="Id, name, or name@version.")],
    train: Annotated[str, typer.Argument(help="The training dataset.")],
    test: Annotated[str, typer.Argument(help="The test dataset.")],
    method: Annotated[
        list[str] | None,
        typer.Option(
            help='cg, ekfac, or keywords as JSON: \'{"inversion_method": "cg", "curvature": "fisher"}\'. Repeatable.'
        ),
    ] = None,
    regularization: Annotated[
        str | None,
        typer.Option(
            "--damping",
            "--regularization",
            "--lambda",
            help="λ's that each is tried at: 1e-3,1e-2, relative:0.1.",
        ),
    ] = None,
    measure: Annotated[
        str, typer.Option(help="lds, loo, mislabel, brittleness or tail_patch.")
    ] = "lds",
    train_rows: Annotated[str | None, typer.Option(help="Some training rows: 0:1000.")] = None,
    test_rows: Annotated[str | None, typer.Option(help="Some test rows.")] = None,
    subsets: Subsets = 100,
    share: Share = 0.5,
    repeats: Repeats = 2,
    seed: Seed = 0,
    wrong: Wrong = None,
    k: K = None,
    left_out: LeftOut = None,
    queries: Queries = None,
    recipe: RecipeText = None,
    baselines: Baselines = True,
    precision: Precision = None,
    priority: Priority = None,
    time_limit: TimeLimit = None,
    label: Labels = None,
    column: Column = None,
    name: Name = None,
    note: Note = None,
    timeout: Timeout = None,
    plot: Plot = None,
) -> None:
    """Try methods and λ's against retraining; print a table, and which to use."""
    dampings = choices.damping(regularization)
    found = shell.client.tune(
        model, train, test,
        methods=[choices.value(each) for each in method] if method else None,
        dampings=dampings if dampings is None or isinstance(dampings, list) else [dampings],
        measure=measure,  # type: ignore[arg-type]
        subsets=subsets, share=share, seed=seed, repeats=repeats, baselines=baselines,
        train_rows=choices.rows(train_rows), test_rows=choices.rows(test_rows),
        **_given(wrong=wrong, k=k, left_out=left_out, queries=queries,
                 recipe=choices.document(recipe, "--recipe"), precision=precision, priority=priority,
                 timeout_s=time_limit, labels=choices.pairs(label, "--label") or None,
                 columns=choices.pairs(column, "--column") or None, name=name, note=note,
                 timeout=timeout),
    )  # fmt: skip
    if plot is not None:
        found.plot().savefig(plot)
    if shell.as_json:
        shell.document(
            {
                "best": found.best,
                "why": found.why,
                "left_out": list(found.left_out),
                "job": found.table.job,
                "report": found.table.report.model_dump(mode="json"),
            }
        )
        return
    shown(shell, found.table)
    for line in found.left_out:
        shell.say(line)
    shell.say(found.why)


def shown(shell: Shell, table: QualityTable, plot: Path | None = None) -> None:
    """A table of measures, and its picture where one is wished for."""
    if plot is not None:
        table.plot().savefig(plot)
    if shell.as_json:
        shell.document(table.report)
        return
    from upweight.cli.table import show

    heads = ("RESULT", "METHOD", "LAMBDA", "MEASURE", "VALUE", "LOW", "HIGH", "N")
    show(heads, [_row(each) for each in table.rows])
    for line in table.remarks:
        shell.say(line)


def _given(**options: Any) -> Any:
    """Those that were given."""
    return {name: value for name, value in options.items() if value is not None}


def _row(row: QualityRow) -> tuple[str, ...]:
    numbers = ["" if each is None else f"{each:.3f}" for each in (row.value, row.low, row.high)]
    return (
        row.result,
        "baseline" if row.baseline else row.method,
        "" if row.damping is None else f"{row.damping:g}",
        row.measure,
        *numbers,
        str(row.n or ""),
    )
