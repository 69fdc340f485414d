"""`upweight models`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from upweight.cli import choices, units
from upweight.cli.choices import Labels, Limit, Oldest, Timeout, Wait
from upweight.cli.shell import Shell
from upweight.cli.verb import group, verb

if TYPE_CHECKING:
    from upweight.schema import ModelRecord

models = group("Models: a program, its loss, and the parameters that influence is taken over.")

Reference = Annotated[str, typer.Argument(metavar="MODEL", help="Id, name, or name@version.")]


@verb(models, "list", "upweight models list --state ready --label team=vision")
def show_all(
    shell: Shell,
    state: Annotated[str | None, typer.Option(help="checking, ready or rejected.")] = None,
    label: Labels = None,
    limit: Limit = 50,
    oldest_first: Oldest = False,
) -> None:
    """Show models, newest first."""
    found = shell.client.models.list(
        limit=limit or None,
        state=state,
        labels=choices.pairs(label, "--label"),
        order="asc" if oldest_first else "desc",
    )
    heads = ("NAME", "ID", "STATE", "LOSS", "PARAMETERS", "CREATED")
    shell.list(found, heads, _row, "no models; register one: upweight models register --help")


@verb(models, "show", "upweight models show digits-mlp@2")
def show(shell: Shell, model: Reference) -> None:
    """Show one model: state, loss, inputs, outputs, who uses it."""
    _show(shell, shell.client.models.get(model))


@verb(
    models,
    "register",
    """
    upweight models register digits-mlp digits.pt2 --loss cross_entropy
    upweight models register r18 --factory torchvision.models:resnet18 --weights r18.safetensors --loss cross_entropy
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
        typer.Option(help="Glob of parameters that influence is taken over: 'head.*'. Repeatable."),
    ] = None,
    factory: Annotated[
        str | None, typer.Option(help="Dotted name that the operator allows, in place of a file.")
    ] = None,
    kwargs: Annotated[str | None, typer.Option(help="The factory's arguments as JSON.")] = None,
    config: Annotated[str | None, typer.Option(help="config.json of a Hugging Face model.")] = None,
    task: Annotated[str | None, typer.Option(help="What the Hugging Face model does.")] = None,
    weights: Annotated[str | None, typer.Option(help="safetensors file, or a digest.")] = None,
    label: Labels = None,
    wait: Wait = True,
    timeout: Timeout = None,
) -> None:
    """Upload a model and wait until a worker has checked it."""
    for path in (program, weights):
        if path is not None and not path.startswith("sha256:"):
            choices.existing([path])
    record = shell.client.models.register(
        name,
        program,
        loss=choices.value(loss),
        parameters=parameter or ["*"],
        factory=factory,
        kwargs=choices.document(kwargs, "--kwargs"),
        config=choices.document(config, "--config"),
        task=task,
        weights=weights,
        labels=choices.pairs(label, "--label"),
        wait=wait,
        timeout=timeout,
    )
    _show(shell, record)


@verb(models, "delete", "upweight models delete digits-mlp@1")
def delete(
    shell: Shell,
    model: Annotated[list[str], typer.Argument(help="Ids, names, or name@version.")],
) -> None:
    """Delete models that no job uses."""
    for reference in model:
        shell.client.models.delete(reference)
        shell.say(f"deleted {reference}")


def _row(record: ModelRecord) -> tuple[str, ...]:
    return (
        f"{record.name}@{record.version}",
        record.id,
        str(record.state),
        record.loss.name,
        units.count(record.parameter_count),
        units.age(record.created_at),
    )


def _show(shell: Shell, record: ModelRecord) -> None:
    signature = [
        (what, ", ".join(f"{each.name} ({units.shape(each.shape)}) {each.dtype}" for each in specs))
        for what, specs in (("inputs", record.inputs), ("outputs", record.outputs))
    ]
    shell.record(
        record,
        [
            ("id", record.id),
            ("name", f"{record.name}@{record.version}"),
            ("state", str(record.state)),
            ("problem", record.problem.detail if record.problem else ""),
            ("program", record.program.format),
            ("loss", record.loss.name),
            *signature,
            (
                "parameters",
                f"{units.count(record.parameter_count)} of {', '.join(record.parameters)}",
            ),
            ("size", units.size(record.size_bytes)),
            ("digest", record.digest),
            ("labels", ", ".join(f"{key}={value}" for key, value in record.labels.items())),
            ("created", units.age(record.created_at)),
            ("used by", ", ".join(record.used_by)),
        ],
    )
