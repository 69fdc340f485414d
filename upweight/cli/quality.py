"""`upweight evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from upweight.cli import choices
from upweight.cli.shell import Shell
from upweight.cli.verb import JobArguments

if TYPE_CHECKING:
    from upweight.schema import QualityRow


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
    recipe: Annotated[
        str | None, typer.Option(help="JSON, or a file of it, in place of the model's own.")
    ] = None,
    baselines: Annotated[bool, typer.Option(help="Plain scores beside.")] = True,
    plot: Annotated[Path | None, typer.Option(help="A picture: quality.png.")] = None,
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
        recipe=choices.document(recipe, "--recipe"),
    )
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
