"""Commands that talk to a service: all take the same three options, and each shows an example."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from dataclasses import is_dataclass
from typing import Annotated, Any, get_type_hints

import typer
from typer.core import TyperCommand, TyperOption

from upweight.cli.exits import pipe_closed
from upweight.cli.shell import Shell

ADDRESS = "UPWEIGHT_URL"
Url = Annotated[
    str | None,
    typer.Option(envvar=ADDRESS, help="The service. Without: http://127.0.0.1:8765."),
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


JOB = "JOB"  # what arguments that name a job are called; `latest` and parts of an id are looked up
JobArgument = Annotated[
    str, typer.Argument(metavar=JOB, help="The job's id, a part of it that is unique, or latest.")
]
JobArguments = Annotated[
    list[str], typer.Argument(metavar=JOB, help="Ids of jobs, parts of them, or latest.")
]


_TYPE = re.compile(r"<([^<>]+)>$")  # as the parser shows the type of an option's value
_PATHS = frozenset({"Path", "path", "file", "directory"})


def group(help: str) -> typer.Typer:
    """A noun."""
    return typer.Typer(
        help=help, short_help=help, no_args_is_help=True, rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )  # fmt: skip


def line(action: Callable[..., None]) -> str:
    """What a command says of itself in the list of its noun: whole, where the parser would cut it."""
    return inspect.cleandoc(action.__doc__ or "").partition("\n\n")[0]


def examples(text: str) -> str:
    """The end of a command's help: lines as they are to be typed."""
    lines = inspect.cleandoc(text).splitlines()
    return "\n".join(["\b", "Example:", *(f"  {line}" for line in lines)])


def verb(
    noun: typer.Typer,
    name: str,
    example: str,
    says: str | None = None,
    address: str | None = None,
) -> Callable[[Callable[..., None]], Any]:
    """Makes `action(shell, …)` the command `name`; the shell comes from the shared options.

    The help is what `says` says, or the action's docstring. `address`: the help of --url, where that means more than
    usual. A parameter of a dataclass stands for its fields.
    """

    def decorate(action: Callable[..., None]) -> Callable[..., None]:
        noun.command(
            name, cls=Command, help=says, short_help=says or line(action), epilog=examples(example)
        )(_with_shell(action, address))
        return action

    return decorate


class Command(TyperCommand):
    """A command whose help names what is to be typed as manuals do: NAME..., [FILE], N.

    Lists inversion methods and curvatures where an option's help says so; nothing loads the contract before.
    """

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """What comes after the command's name."""
        names = [(_name(each), each.required) for each in self.params if _is_argument(each)]
        return ["[OPTIONS]", *(name if needed else f"[{name}]" for name, needed in names)]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Arguments and options, each with its help."""
        from upweight.schema.curvature import kinds_in_words
        from upweight.schema.inversion import methods_in_words

        words = {"{methods}": methods_in_words(), "{kinds}": kinds_in_words()}
        for option in self.params:
            if isinstance(option, TyperOption) and option.help:
                for name, listed in words.items():
                    option.help = option.help.replace(name, listed)
        lines: dict[bool, list[tuple[str, str]]] = {True: [], False: []}
        for each in self.get_params(ctx):
            found = each.get_help_record(ctx)
            if found is not None:
                is_argument = _is_argument(each)
                name = _name(each) if is_argument else _TYPE.sub(_value, found[0])
                lines[is_argument].append((name, found[1].replace("  [required]", "")))
        for is_argument, title in ((True, "Arguments"), (False, "Options")):
            if lines[is_argument]:
                with formatter.section(title):
                    formatter.write_dl(lines[is_argument])


def _value(shown: re.Match[str]) -> str:
    """What is to be typed, in the manner of manuals: `<int range>` is a matter of the parser's."""
    kind = shown[1].removeprefix("list[").partition(" ")[0].rstrip("]")
    return {"int": "N", "float": "X"}.get(kind, "PATH" if kind in _PATHS else "TEXT")


def _is_argument(parameter: Any) -> bool:
    return bool(parameter.param_type_name == "argument")


def _name(argument: Any) -> str:
    """`NAME`, and `NAME...` where it may be several."""
    name = argument.metavar or argument.name.upper()
    return f"{name}..." if argument.nargs != 1 else str(name)


def _names_jobs(hint: Any) -> bool:
    return any(getattr(each, "metavar", None) == JOB for each in getattr(hint, "__metadata__", ()))


def _looked_up(shell: Shell, given: Any) -> Any:
    from upweight.cli.job_ids import job_id

    if isinstance(given, list):
        return [job_id(shell.client, each) for each in given]
    return None if given is None else job_id(shell.client, given)


def _parameters(of: Callable[..., Any]) -> Iterator[inspect.Parameter]:
    """Of a function, or a dataclass: each with its type."""
    hints = get_type_hints(of, include_extras=True)
    for each in inspect.signature(of).parameters.values():
        yield each.replace(annotation=hints[each.name], kind=inspect.Parameter.KEYWORD_ONLY)


def _with_shell(action: Callable[..., None], address: str | None) -> Callable[..., None]:
    _, *own = _parameters(action)
    # Options that several commands take are a dataclass, in whose place its fields are taken.
    several: dict[str, type] = {
        each.name: each.annotation
        for each in own
        if isinstance(each.annotation, type) and is_dataclass(each.annotation)
    }
    fields = {name: list(_parameters(made)) for name, made in several.items()}
    taken = [option for each in own for option in fields.get(each.name, [each])]
    jobs = [each.name for each in taken if _names_jobs(each.annotation)]
    kind = inspect.Parameter.KEYWORD_ONLY
    common = dict(SHARED)
    if address is not None:
        common["url"] = (Annotated[str | None, typer.Option(envvar=ADDRESS, help=address)], None)
    shared = [
        inspect.Parameter(name, kind, default=default, annotation=annotation)
        for name, (annotation, default) in common.items()
    ]

    def run(url: str | None, api_key: str | None, as_json: bool, **options: Any) -> None:
        shell = Shell(url, api_key, as_json)
        try:
            for name in jobs:
                options[name] = _looked_up(shell, options[name])
            for name, made in several.items():
                options[name] = made(**{each.name: options.pop(each.name) for each in fields[name]})
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
