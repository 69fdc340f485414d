"""`upweight models`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from upweight.cli import choices, units
from upweight.cli.choices import Labels, Timeout, Wait
from upweight.cli.registered import Reference, RegisteredCommands
from upweight.cli.shell import Shell
from upweight.cli.verb import group, verb

if TYPE_CHECKING:
    from upweight.schema import HeldFixed, ModelRecord

_SHOWN = 8  # names
models = group("Models: a program, its loss, and the parameters that influence is taken over.")


def _cells(record: ModelRecord) -> tuple[str, ...]:
    return (record.loss.name, units.count(record.parameter_count))


def _details(record: ModelRecord) -> list[tuple[str, str]]:
    signature = [
        (what, ", ".join(f"{each.name} ({units.shape(each.shape)}) {each.dtype}" for each in specs))
        for what, specs in (("inputs", record.inputs), ("outputs", record.outputs))
    ]
    count = units.count(record.parameter_count)
    if record.parameters is None:
        chosen = f"{count} that train" if count else "those that train"
    else:
        chosen = f"{count} of {', '.join(record.parameters)}"
    fixed = record.held_fixed
    return [
        ("program", record.program.format),
        ("loss", record.loss.name),
        *signature,
        ("parameters", chosen),
        ("held fixed", _fixed(fixed) if fixed else ""),
        ("unused", _some(record.unused)),
        ("recipe", _recipe(record)),
        ("trained from", _parent(record)),
        ("precision", _precision(record)),
    ]


def _precision(record: ModelRecord) -> str:
    """What jobs compute in, and why, where that is not what the parameters are."""
    note = f": {record.precision_note}" if record.precision and record.precision_note else ""
    return f"{record.precision or ''}{note}"


def _recipe(record: ModelRecord) -> str:
    """What was said of its training, without what was left as it is."""
    given = {} if record.recipe is None else record.recipe.model_dump(exclude_defaults=True)
    return " ".join(f"{name}={value}" for name, value in given.items())


def _parent(record: ModelRecord) -> str:
    """Of a retrained model: its parent, and how many rows it was trained on."""
    trained = record.training
    if trained is None:
        return ""
    return (
        f"{trained.parent.name}@{trained.parent.version} on {trained.rows:,} rows, by {trained.job}"
    )


def _fixed(fixed: HeldFixed) -> str:
    return f"{units.count(fixed.parameter_count)} ({fixed.reason}): {_some(fixed.parameters)}"


def _some(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")


REGISTERED = RegisteredCommands("models", "digits-mlp", ("LOSS", "PARAMETERS"), _cells, _details)
REGISTERED.add_verbs(models)


@verb(
    models,
    "report",
    "upweight models report digits-clean -o report.html",
)
def report(
    shell: Shell,
    reference: Reference,
    output: Annotated[Path, typer.Option("--output", "-o", help="The file.")] = Path("report.html"),
) -> None:
    """Write what a retraining changed, as one page: loss and accuracy before and after, by class."""
    saved = shell.client.models.save_report(reference, output)
    if shell.as_json:
        shell.document({"path": str(saved), "size_bytes": saved.stat().st_size})
    else:
        print(saved)


@verb(
    models,
    "register",
    """
    upweight models register digits-mlp digits.pt2 --loss cross_entropy
    upweight models register r18 --factory torchvision.models:resnet18 --weights r18.safetensors --loss cross_entropy
    upweight models register digits-mlp --mlflow models:/digits/1 --loss cross_entropy
    """,
)
def register(
    shell: Shell,
    name: Annotated[str, typer.Argument(help="Its name; a new version if there is one.")],
    program: Annotated[
        str | None, typer.Argument(metavar="[FILE]", help="A pt2 file, of torch.export.save.")
    ] = None,
    loss: Annotated[
        str, typer.Option(help='A name, or JSON: \'{"name": "huber", "delta": 2}\'.')
    ] = ...,  # type: ignore[assignment]
    parameter: Annotated[
        list[str] | None,
        typer.Option(
            help="Glob of parameters that influence is taken over: 'head.*'. Repeatable. By default those that train."
        ),
    ] = None,
    output: Annotated[
        list[str] | None,
        typer.Option(
            help="What the loss takes of a model that returns several tensors: a name or place; for gaussian_nll two."
        ),
    ] = None,
    mlflow: Annotated[
        str | None,
        typer.Option(
            metavar="URI",
            help="A torch model that MLflow has as pt2, in place of a file: models:/digits/1.",
        ),
    ] = None,
    factory: Annotated[
        str | None, typer.Option(help="Dotted name that the operator allows, in place of a file.")
    ] = None,
    kwargs: Annotated[str | None, typer.Option(help="The factory's arguments as JSON.")] = None,
    config: Annotated[str | None, typer.Option(help="config.json of a Hugging Face model.")] = None,
    task: Annotated[str | None, typer.Option(help="What the Hugging Face model does.")] = None,
    weights: Annotated[str | None, typer.Option(help="safetensors file, or a digest.")] = None,
    base: Annotated[
        str | None, typer.Option(help="A registered Hugging Face model, for --adapter.")
    ] = None,
    adapter: Annotated[
        str | None, typer.Option(help="The folder in which peft saved an adapter of --base.")
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            help="How it was trained, as JSON or a file of it; `upweight retrain` uses it."
        ),
    ] = None,
    initial: Annotated[
        str | None,
        typer.Option(help="The weights that training began with: a safetensors file, or a digest."),
    ] = None,
    label: Labels = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No bars.")] = False,
    wait: Wait = True,
    timeout: Timeout = None,
) -> None:
    """Upload a model and wait until a worker has checked it."""
    for path in (program, weights, initial):
        if path is not None and not path.startswith("sha256:"):
            choices.existing([path])
    given: dict[str, Any] = {
        "loss": choices.value(loss),
        "parameters": parameter or None,
        "output": output[0] if output and len(output) == 1 else output or None,
        "recipe": choices.document(recipe, "--recipe"),
        "initial": initial,
        "labels": choices.pairs(label, "--label"),
        "quiet": quiet,
        "wait": wait,
        "timeout": timeout,
    }
    if mlflow is not None:
        others = (program, factory, kwargs, config, task, weights, base, adapter)
        if any(each is not None for each in others):
            raise typer.BadParameter(
                "it stands in place of a file, a factory or a config", param_hint="--mlflow"
            )
        REGISTERED.show(shell, shell.client.models.register_mlflow(mlflow, name, **given))
        return
    record = shell.client.models.register(
        name,
        program,
        factory=factory,
        kwargs=choices.document(kwargs, "--kwargs"),
        config=choices.document(config, "--config"),
        task=task,
        weights=weights,
        base=base,
        adapter=adapter,
        **given,
    )
    REGISTERED.show(shell, record)
