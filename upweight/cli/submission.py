"""A job from JSON and options: what is given as an option goes before what the JSON says."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

import typer

from upweight.cli import choices
from upweight.cli.shell import Shell

if TYPE_CHECKING:
    from upweight import Client

VECTORS = ("rhs", "vectors")  # fields that take a file, a digest, a job or a dataset's id
INVERTING = ("influences", "factors", "ihvp", "self_influences", "index")
NO_BLOB = "sha256:" + "0" * 64  # stands for a file that is uploaded after the check


class Submission:
    """The fields of a job request, as far as they are known."""

    def __init__(self, fields: dict[str, Any]) -> None:
        self._fields = fields

    @classmethod
    def read(cls, file: str | None) -> Submission:
        """From a file, from stdin (`-`), or empty."""
        fields = choices.document(file, "FILE")
        if fields is None:
            return cls({})
        if not isinstance(fields, dict):
            raise typer.BadParameter("a job is a JSON object: {…}", param_hint="FILE")
        return cls(fields)

    def put(self, **options: Any) -> None:
        """Fields of the job itself; None leaves what is there."""
        self._fields |= {name: value for name, value in options.items() if value is not None}

    def select(
        self,
        name: str,
        dataset: str | None,
        rows: str | list[Any] | None,
        where: dict[str, list[Any]] | None = None,
    ) -> None:
        """A dataset or some of its rows, by number or in a list by id."""
        named = "ids" if isinstance(rows, list) else "rows"
        given = {"dataset": dataset, named: rows, "where": where or None}
        given = {key: value for key, value in given.items() if value is not None}
        if not given:
            return
        before = self._fields.get(name)
        chosen = dict(before) if isinstance(before, dict) else {}
        chosen |= given
        self._fields[name] = chosen

    def invert(self, method: str | None, parameters: dict[str, Any]) -> None:
        """The inversion; another method begins with its own defaults. Nothing leaves it to `checked`."""
        if method is None and not parameters and "inversion" not in self._fields:
            return
        before = self._fields.get("inversion", {})
        before = dict(before) if isinstance(before, dict) else {"method": before}
        if method is not None and method != before.get("method"):
            before = {"method": method}
        self._fields["inversion"] = {"method": "direct", **before, **parameters}

    def keep(self, text: str | None) -> None:
        """`matrix,top=10,mean`: what is kept, and nothing else."""
        if text is None:
            return
        kept: dict[str, Any] = {"matrix": False}
        for name in choices.names(text) or ():
            key, equals, value = name.partition("=")
            kept[key] = choices.value(value) if equals else True
        self._fields["keep"] = kept

    def checked(self) -> dict[str, Any]:
        """The fields; InvalidRequest, with the field and the way out, before anything is sent."""
        from upweight.client.jobs import checked
        from upweight.client.request import inversion, written_out

        given = {"kind": "influences", **self._fields}
        inverts = given["kind"] in INVERTING
        if inverts and ("inversion" in given or not given.get("factors")):  # whose job's it is then
            method = dict(given.get("inversion", {"method": "direct"}))
            method["method"], curvature = written_out(method["method"], given.get("curvature"))
            if curvature is not None:
                given["curvature"] = curvature
            given["inversion"] = inversion(method.pop("method"), method)
        files = {name: given[name] for name in VECTORS if _is_file(given.get(name))}
        choices.existing(list(files.values()))
        checked({**given, **dict.fromkeys(files, NO_BLOB)})
        self._fields = given
        return given

    def uploaded(self, client: Client) -> dict[str, Any]:
        """The fields with files of vectors replaced by their digests."""
        for name in VECTORS:
            given = self._fields.get(name)
            if _is_file(given):
                self._fields[name] = _sent(client, name, Path(given))
        return self._fields


def _is_file(given: Any) -> TypeGuard[str]:
    """Whether vectors are given as a file: no digest, and no id."""
    named = isinstance(given, str) and given.startswith(("sha256:", "job_", "dst_"))
    return isinstance(given, str) and not named


def rows_of(shell: Shell, text: str | None, dataset: str | None) -> str | list[Any] | None:
    """Rows as they are typed, or the ids in a file of that name; a dataset says whether its ids are numbers."""
    found = choices.rows(text)
    if not isinstance(found, list) or dataset is None:
        return found
    record = shell.client.datasets.get(dataset)
    return found if record.id_kind == "text" else choices.whole_numbers(found, text or "")


def _sent(client: Client, name: str, path: Path) -> str:
    """A digest of a blob with one tensor of this name."""
    if path.suffix != ".npy":
        return client.blobs.put(path).digest
    import numpy as np

    return client.blobs.put_array(name, np.load(path, allow_pickle=False))
