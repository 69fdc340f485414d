"""What models and datasets have in common: they are registered, listed, shown, and deleted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Generic, TypeVar

import typer

from upweight.cli import choices, units
from upweight.cli.choices import Labels, Limit, Oldest, Timeout
from upweight.cli.shell import Shell
from upweight.cli.verb import verb

if TYPE_CHECKING:
    from upweight.schema import DatasetRecord, ModelRecord

R = TypeVar("R", bound="ModelRecord | DatasetRecord")
Pair = tuple[str, str]

Reference = Annotated[str, typer.Argument(metavar="NAME", help="Id, name, or name@version.")]
References = Annotated[
    list[str], typer.Argument(metavar="NAME", help="Ids, names, or name@version.")
]


@dataclass(frozen=True)
class RegisteredCommands(Generic[R]):
    """One of the two, with what is its own."""

    plural: str  # as the client calls it, too
    example: str  # a name
    heads: Sequence[str]  # of its own columns
    cells: Callable[[R], Sequence[str]]
    details: Callable[[R], Sequence[Pair]]

    def add_verbs(self, noun: typer.Typer) -> None:
        """`list`, `show`, `wait` and `delete`."""
        word, example = self.plural, self.example

        @verb(
            noun, "list", f"upweight {word} list --state ready --label team=vision",
            says=f"Show {word}, newest first.",
        )  # fmt: skip
        def show_all(
            shell: Shell,
            state: Annotated[str | None, typer.Option(help="checking, ready or rejected.")] = None,
            label: Labels = None,
            limit: Limit = 50,
            oldest_first: Oldest = False,
        ) -> None:
            nothing = (
                f"no such {word}; `upweight {word} list` shows all"
                if state or label
                else f"no {word}; register one: upweight {word} register --help"
            )
            found = getattr(shell.client, word).list(
                limit=limit or None,
                state=state,
                labels=choices.pairs(label, "--label"),
                order="asc" if oldest_first else "desc",
            )
            heads = ("NAME", "ID", "STATE", *self.heads, "CREATED")
            shell.list(
                found,
                heads,
                self._row,
                nothing,
                ("SIZE", "LOSS", "CREATED"),
            )

        @verb(
            noun, "show", f"upweight {word} show {example}",
            says=f"Show one of the {word}: its state, what it is made of, who uses it.",
        )  # fmt: skip
        def show(shell: Shell, reference: Reference) -> None:
            self.show(shell, getattr(shell.client, word).get(reference))

        @verb(
            noun, "wait", f"upweight {word} wait {example}",
            says=f"Wait until a worker has checked one of the {word}; show it, or why it was rejected.",
        )  # fmt: skip
        def wait(shell: Shell, reference: Reference, timeout: Timeout = None) -> None:
            self.show(shell, getattr(shell.client, word).wait(reference, timeout))

        @verb(
            noun, "delete", f"upweight {word} delete {example}@1",
            says=f"Delete {word} that no job uses.",
        )  # fmt: skip
        def delete(
            shell: Shell,
            references: References,
            with_jobs: Annotated[
                bool, typer.Option("--with-jobs", help="And the ended jobs that use them.")
            ] = False,
        ) -> None:
            for reference in references:
                self._delete(shell, reference, with_jobs)

    def _delete(self, shell: Shell, reference: str, with_jobs: bool) -> None:
        from upweight.errors import InUse

        try:
            deleted = getattr(shell.client, self.plural).delete(reference, with_jobs=with_jobs)
        except InUse as error:
            if with_jobs:
                raise
            way = f": upweight {self.plural} delete {reference} --with-jobs"
            raise InUse(error.detail.replace(" give with_jobs=True", way)) from None
        for job in deleted:
            shell.say(f"deleted {job}")
        shell.say(f"deleted {reference}")

    def show(self, shell: Shell, record: Any) -> None:
        """One record whole."""
        problem = record.problem
        shell.record(
            record,
            [
                ("id", record.id),
                ("name", _name(record)),
                ("state", str(record.state)),
                ("problem", problem.detail if problem else ""),
                *self.details(record),
                ("size", units.size(record.size_bytes)),
                ("digest", record.digest),
                ("labels", ", ".join(f"{key}={value}" for key, value in record.labels.items())),
                ("created", units.age(record.created_at)),
                ("used by", ", ".join(record.used_by)),
            ],
        )

    def _row(self, record: Any) -> Sequence[str]:
        cells = self.cells(record)
        age = units.age(record.created_at)
        return (_name(record), record.id, str(record.state), *cells, age)


def _name(record: Any) -> str:
    return f"{record.name}@{record.version}"
