"""Names of models and datasets, for a job that goes by their ids."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from upweight import Client

_OF = {"mdl": "models", "dst": "datasets"}
_ID_LENGTH = len("mdl_") + 26


def names_of(client: Client) -> Callable[[str], str]:
    """`digits-mlp@3` for an id, asked for once; what is no id, or not there any more, as it is."""

    @cache
    def name(reference: str) -> str:
        from upweight.errors import NotFound

        plural = _OF.get(reference.partition("_")[0]) if len(reference) == _ID_LENGTH else None
        if plural is None:
            return reference
        try:
            record = getattr(client, plural).get(reference)
        except NotFound:
            return reference
        return f"{record.name}@{record.version}"

    return name
