"""`upweight evaluate` and `upweight tune`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from upweight.cli import choices
from upweight.cli.shell import Shell
from upweight.cli.verb import JobArguments

if TYPE_CHECKING:
    from upweight.results.quality import QualityTable
    from upweight.schema import QualityRow

Recipe = Annotated[
    str | None, typer.Option(help="JSON, or a file of it, in place of the model's own.")
]
Plot = Annotated[Path | None, typer.Option(help="A picture: quality.png.")]


def evaluate(
    shell: Shell,
    jobs: JobArguments,
    measure: Annotated[
        str, typer.Option(help="lds, loo, mislabel, brittleness, tail_patch; several with commas.")
    ] = "lds",
    subsets: Annotated[int, typer.Option(help="Random subsets that are trained on.")] = 100,
    share: Annotated[float, typer.Option(help="Of the training rows that a subset has.")] = 0.5,
    repeats: Annotated[int, typer.Option(help="Trainings of each, with other seeds.")] = 2,
    seed: Annotated[int, typer.Option(help="Of the subsets.")] = 0,
    wrong: Annotated[
        str | None, typer.Option(help="For mislabel: rows whose labels are wrong, 3,17,20:30.")
    ] = None,
    k: Annotated[int | None, typer.Option(help="Rows removed, or stepped on.")] = None,
    left_out: Annotated[int | None, typer.Option(help="Rows that loo leaves out.")] = None,
    queries: Annotated[
        int | None, typer.Option(help="Test rows of brittleness and tail_patch.")
    ] = None,
    recipe: Recipe = None,
    baselines: Annotated[bool, typer.Option(help="Plain scores beside.")] = True,
    plot: Plot = None,
) -> None:
    """Hold results against retraining; print a table with intervals."""
    table = shell.client.evaluate(
        jobs,
        [each.strip() for each in measure.split(",")],  # type: ignore[misc]
        subsets=subsets,
        share=share,
        seed=seed,
        repeats=repeats,
        baselines=baselines,
        wrong=wrong,
        k=k,
        left_out=left_out,
        queries=queries,
        recipe=choices.document(recipe, "--recipe"),
    )
    if plot is not None:
        table.plot().savefig(plot)
    if shell.as_json:
        shell.document(table.report)
        return
    _show(shell, table)


def tune(
    shell: Shell,
    model: Annotated[str, typer.Argument(help="Id, name, or name@version.")],
    train: Annotated[str, typer.Argument(help="The training dataset.")],
    test: Annotated[str, typer.Argument(help="The test dataset.")],
    method: Annotated[
        list[str] | None,
        typer.Option(
            help="direct, or JSON with keywords of compute_influences; may be given several times."
        ),
    ] = None,
    damping: Annotated[
        str | None, typer.Option(help="λ's, 0.001,0.01 or relative:0.1,relative:1.")
    ] = None,
    measure: Annotated[str, typer.Option(help="What decides: lds, loo, …")] = "lds",
    subsets: Annotated[int, typer.Option(help="Random subsets that are trained on.")] = 100,
    share: Annotated[float, typer.Option(help="Of the training rows that a subset has.")] = 0.5,
    repeats: Annotated[int, typer.Option(help="Trainings of each, with other seeds.")] = 2,
    seed: Annotated[int, typer.Option(help="Of the subsets.")] = 0,
    train_rows: Annotated[str | None, typer.Option(help="Some of its rows: 0:1000, ::10.")] = None,
    test_rows: Annotated[str | None, typer.Option(help="Some of its rows.")] = None,
    recipe: Recipe = None,
    plot: Plot = None,
) -> None:
    """Sweep methods and λ's, hold all against retraining, say which to use."""
    given = choices.damping(damping)
    tuned = shell.client.tune(
        model,
        train,
        test,
        methods=None if not method else [choices.value(each) for each in method],
        dampings=given if given is None or isinstance(given, list) else [given],
        measure=measure,  # type: ignore[arg-type]
        subsets=subsets,
        share=share,
        seed=seed,
        train_rows=train_rows,
        test_rows=test_rows,
        repeats=repeats,
        recipe=choices.document(recipe, "--recipe"),
    )
    if plot is not None:
        tuned.plot().savefig(plot)
    if shell.as_json:
        shell.document(
            {
                "best": tuned.best,
                "why": tuned.why,
                "left_out": list(tuned.left_out),
                "report": tuned.table.report.model_dump(mode="json"),
            }
        )
        return
    _show(shell, tuned.table)
    for line in tuned.left_out:
        shell.say(line)
    shell.say(tuned.why)


def _show(shell: Shell, table: QualityTable) -> None:
    from upweight.cli.table import show

    heads = ("RESULT", "METHOD", "LAMBDA", "MEASURE", "VALUE", "LOW", "HIGH", "N")
    show(heads, [_row(each) for each in table.rows])
    for line in table.remarks:
        shell.say(line)


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
