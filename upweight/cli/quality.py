"""`upweight evaluate`, and `upweight tune`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
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


@dataclass(frozen=True)
class Trials:
    """What both take: how it is retrained, what is looked at, and the job for that."""

    subsets: Annotated[int, typer.Option(help="Random subsets that are trained on.")] = 100
    share: Annotated[float, typer.Option(help="Of the training rows that a subset has.")] = 0.5
    repeats: Annotated[int, typer.Option(help="Trainings of each, with other seeds.")] = 2
    seed: Annotated[int, typer.Option(help="Of the subsets.")] = 0
    wrong: Annotated[
        str | None,
        typer.Option(
            help="For mislabel: rows whose labels are wrong, 3,17,20:30, or a file of ids."
        ),
    ] = None
    k: Annotated[int | None, typer.Option(help="Rows removed, or stepped on.")] = None
    left_out: Annotated[
        int | None, typer.Option(help="For loo: rows that are left out, one by one.")
    ] = None
    queries: Annotated[
        int | None, typer.Option(help="Test rows that brittleness and tail_patch look at.")
    ] = None
    recipe: Annotated[
        str | None, typer.Option(help="JSON, or a file of it, in place of the model's own.")
    ] = None
    baselines: Annotated[bool, typer.Option(help="Plain scores beside.")] = True
    precision: Annotated[str | None, typer.Option(help="float32 or float64.")] = None
    priority: Annotated[str | None, typer.Option(help="high, default or low.")] = None
    time_limit: Annotated[int | None, typer.Option(help="Seconds that each job may run.")] = None
    label: Labels = None
    column: Annotated[
        list[str] | None, typer.Option(help="INPUT=COLUMN where names differ. Repeatable.")
    ] = None
    name: Annotated[str | None, typer.Option(help="What you call the job.")] = None
    note: Annotated[str | None, typer.Option(help="What there is to say about it.")] = None
    timeout: Timeout = None
    plot: Annotated[Path | None, typer.Option(help="A picture: quality.png.")] = None

    def keywords(self) -> dict[str, Any]:
        """As `client.evaluate` and `client.tune` take them: those that were given."""
        options = {
            **asdict(self),
            "wrong": choices.rows(self.wrong),
            "recipe": choices.document(self.recipe, "--recipe"),
            "timeout_s": self.time_limit,
            "labels": choices.pairs(self.label, "--label") or None,
            "columns": choices.pairs(self.column, "--column") or None,
        }
        beside = ("time_limit", "label", "column", "plot")
        return {
            name: value
            for name, value in options.items()
            if value is not None and name not in beside
        }


def evaluate(
    shell: Shell,
    jobs: JobArguments,
    measure: Annotated[
        str, typer.Option(help="lds, loo, mislabel, brittleness, tail_patch; several with commas.")
    ] = "lds",
    *,
    trials: Trials,
) -> None:
    """Hold results against retraining; print a table with intervals."""
    table = shell.client.evaluate(
        jobs,
        [each.strip() for each in measure.split(",")],  # type: ignore[misc]
        **trials.keywords(),
    )
    shown(shell, table, trials.plot)


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
    *,
    trials: Trials,
) -> None:
    """Try methods and λ's against retraining; print a table, and which to use."""
    dampings = choices.damping(regularization)
    found = shell.client.tune(
        model, train, test,
        methods=[choices.value(each) for each in method] if method else None,
        dampings=dampings if dampings is None or isinstance(dampings, list) else [dampings],
        measure=measure,  # type: ignore[arg-type]
        train_rows=choices.rows(train_rows), test_rows=choices.rows(test_rows),
        **trials.keywords(),
    )  # fmt: skip
    if trials.plot is not None:
        found.plot().savefig(trials.plot)
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
