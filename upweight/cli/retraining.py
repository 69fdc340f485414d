"""`upweight retrain`, and `upweight banks`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from upweight.cli import choices, units
from upweight.cli.following import ended, watched
from upweight.cli.shell import Shell
from upweight.cli.verb import group, verb

if TYPE_CHECKING:
    from upweight.schema import Bank

banks = group("Banks: weights that were retrained on subsets of rows.")


def retrain(
    shell: Shell,
    model: Annotated[str, typer.Argument(help="Id, name, or name@version.")],
    train: Annotated[str, typer.Argument(help="The dataset to train on.")],
    rows: Annotated[str | None, typer.Option(help="Some of its rows: 0:1000, ::10.")] = None,
    drop: Annotated[
        str | None,
        typer.Option(help="Rows to leave out: 3,17,204, a file of ids, or an .npy file."),
    ] = None,
    weights: Annotated[
        Path | None, typer.Option(help="An .npy file with a factor of each row's loss.")
    ] = None,
    labels: Annotated[
        Path | None, typer.Option(help="An .npy file with a label for each row.")
    ] = None,
    test: Annotated[str | None, typer.Option(help="A dataset to measure it on.")] = None,
    test_rows: Annotated[str | None, typer.Option(help="Some of its rows.")] = None,
    name: Annotated[str | None, typer.Option(help="Of the new model.")] = None,
    recipe: Annotated[
        str | None, typer.Option(help="JSON, or a file of it, in place of the model's own.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Added to the recipe's.")] = 0,
    precision: Annotated[str | None, typer.Option(help="float32 or float64.")] = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait for the model.")] = True,
) -> None:
    """Train a model anew by its recipe on chosen rows; print the new model."""
    from upweight.client.retraining import request_of
    from upweight.progress import Bars

    given = {
        "rows": rows,
        "drop": choices.rows(drop)
        if drop is None or not drop.endswith(".npy")
        else _array(Path(drop)),
        "weights": None if weights is None else _array(weights),
        "labels": None if labels is None else _array(labels),
        "test": test,
        "test_rows": test_rows,
        "name": name,
        "recipe": choices.document(recipe, "--recipe"),
        "seed": seed,
    }
    client = shell.client
    fields = client._link.run(request_of(Bars(False), model, train, **given))
    record = client.jobs.create(fields if precision is None else {**fields, "precision": precision})
    if not wait:
        shell.document(record) if shell.as_json else print(record.id)
        return
    record = watched(shell, record.id)
    ended(shell, record)
    assert record.model is not None
    made = client.models.get(record.model.id)
    if shell.as_json:
        shell.document(made)
        return
    print(f"{made.name}@{made.version}")
    if made.training is not None and made.training.metrics is not None:
        before, after = made.training.parent_metrics, made.training.metrics
        for what in ("loss", "accuracy"):
            was, now = getattr(before, what, None), getattr(after, what)
            if now is not None and was is not None:
                shell.say(f"{what}: {was:.4g} before, {now:.4g} now, of {after.rows:,} test rows")


@verb(banks, "list", "upweight banks list")
def show_all(shell: Shell) -> None:
    """Show the banks of retrained weights."""
    heads = ("ID", "MODEL", "DATASET", "OPTIMIZER", "SUBSETS", "SIZE", "CREATED")
    shell.list(shell.client.banks.list(), heads, _row, "no banks: jobs of kind quality make them")


@verb(banks, "delete", "upweight banks delete 3f5c…")
def delete(
    shell: Shell, bank: Annotated[list[str], typer.Argument(metavar="BANK…", help="Their ids.")]
) -> None:
    """Delete banks of retrained weights."""
    for id in bank:
        shell.client.banks.delete(id)
        shell.say(f"deleted {id}")


def _row(bank: Bank) -> tuple[str, ...]:
    return (
        bank.id,
        f"{bank.model.name}@{bank.model.version}",
        f"{bank.dataset.name}@{bank.dataset.version}",
        bank.recipe.optimizer,
        units.count(bank.subsets),
        units.size(bank.size_bytes),
        units.age(bank.created_at),
    )


def _array(path: Path) -> Any:
    import numpy as np

    choices.existing([str(path)])
    return np.load(path, allow_pickle=False)
