"""Commands that talk to a service: all take the same three options, and each shows an example."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Annotated, Any, get_type_hints

import typer
from typer.core import TyperCommand, TyperOption

from upweight.cli.exits import pipe_closed
from upweight.cli.shell import Shell

Url = Annotated[
    str | None,
    typer.Option(envvar="UPWEIGHT_URL", help="The service. Without: http://127.0.0.1:8765."),
]
ApiKey = Annotated[
    str | None, typer.Option(envvar="UPWEIGHT_API_KEY", help="A key, where one is needed.")
]
Json = Annotated[
    bool, typer.Option("--json", help="JSON for programs; lists are a document a line.")
]
SHARED: dict[str, tuple[Any, Any]] = {
    "url": (Url, None),
    "api_key": (ApiKey, None),
    "as_json": (Json, False),
}


def group(help: str) -> typer.Typer:
    """A noun."""
    return typer.Typer(help=help, short_help=help, no_args_is_help=True, rich_markup_mode=None)


def line(action: Callable[..., None]) -> str:
    """What a command says of itself in the list of its noun: whole, where the parser would cut it."""
    return inspect.cleandoc(action.__doc__ or "").partition("\n\n")[0]


def examples(text: str) -> str:
    """The end of a command's help: lines as they are to be typed."""
    lines = inspect.cleandoc(text).splitlines()
    return "\n".join(["\b", "Example:", *(f"  {line}" for line in lines)])


def verb(
    noun: typer.Typer, name: str, example: str, says: str | None = None
) -> Callable[[Callable[..., None]], Any]:
    """Makes `action(shell, …)` the command `name`; the shell comes from the shared options.

    The help is what `says` says, or the action's docstring.
    """

    def decorate(action: Callable[..., None]) -> Callable[..., None]:
        noun.command(
            name, cls=Command, help=says, short_help=says or line(action), epilog=examples(example)
        )(_with_shell(action))
        return action

    return decorate


class Command(TyperCommand):
    """Lists inversion methods and curvatures where an option's help says so; nothing loads the contract before."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """As typer does it."""
        from upweight.schema.curvature import kinds_in_words
        from upweight.schema.inversion import methods_in_words

        words = {"{methods}": methods_in_words(), "{kinds}": kinds_in_words()}
        for option in self.params:
            if isinstance(option, TyperOption) and option.help:
                for name, listed in words.items():
                    option.help = option.help.replace(name, listed)
        super().format_options(ctx, formatter)


def _with_shell(action: Callable[..., None]) -> Callable[..., None]:
    hints = get_type_hints(action, include_extras=True)
    _, *own = inspect.signature(action).parameters.values()
    kind = inspect.Parameter.KEYWORD_ONLY
    taken = [each.replace(annotation=hints[each.name], kind=kind) for each in own]
    shared = [
        inspect.Parameter(name, kind, default=default, annotation=annotation)
        for name, (annotation, default) in SHARED.items()
    ]

    def run(url: str | None, api_key: str | None, as_json: bool, **options: Any) -> None:
        shell = Shell(url, api_key, as_json)
        try:
            action(shell, **options)
        except BrokenPipeError:
            raise typer.Exit(pipe_closed()) from None
        finally:
            shell.close()

    parameters = [*taken, *shared]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {each.name: each.annotation for each in parameters}
    run.__doc__ = action.__doc__
    return run
