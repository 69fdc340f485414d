"""A job from JSON and options: what is given as an option goes before what the JSON says."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from upweight.cli import choices

if TYPE_CHECKING:
    from upweight import Client

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
        rows: str | None,
        where: dict[str, list[Any]] | None = None,
    ) -> None:
        """A dataset or some of its rows."""
        given = {"dataset": dataset, "rows": rows, "where": where or None}
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
        if "inversion" in given or not given.get("factors"):  # whose job's it is then
            method = dict(given.get("inversion", {"method": "direct"}))
            method["method"], curvature = written_out(method["method"], given.get("curvature"))
            if curvature is not None:
                given["curvature"] = curvature
            given["inversion"] = inversion(method.pop("method"), method)
        rhs = given.get("rhs")
        if isinstance(rhs, str) and not rhs.startswith("sha256:"):
            choices.existing([rhs])
            checked({**given, "rhs": NO_BLOB})
        else:
            checked(given)
        self._fields = given
        return given

    def uploaded(self, client: Client) -> dict[str, Any]:
        """The fields with a file of right-hand sides replaced by its digest."""
        rhs = self._fields.get("rhs")
        if isinstance(rhs, str) and not rhs.startswith("sha256:"):
            self._fields["rhs"] = _rhs(client, Path(rhs))
        return self._fields


def _rhs(client: Client, path: Path) -> str:
    """A digest of a blob with one tensor `rhs`."""
    if path.suffix != ".npy":
        return client.blobs.put(path).digest
    import numpy as np

    return client.blobs.put_array("rhs", np.load(path, allow_pickle=False))
