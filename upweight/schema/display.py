"""Records at a prompt: a line; in notebooks: a table of the fields that say something. Everything is escaped."""

from __future__ import annotations

import json
from html import escape

from upweight.schema.base import Answer

LONGEST = 200  # characters of one value
CELL = "text-align:left;padding:1px 8px;vertical-align:top"


class Record(Answer):
    """A resource as it stands."""

    def __repr__(self) -> str:
        held = vars(self)
        known = " ".join(str(held[name]) for name in ("id", "state") if held.get(name))
        name = f"{held['name']}@{held['version']} " if "version" in held else ""
        return f"<{type(self).__name__} {name}{known}>"

    __str__ = __repr__

    def _repr_html_(self) -> str:
        fields = self.model_dump(mode="json")
        rows = [
            f"<tr><th style='{CELL}'>{escape(name)}</th><td style='{CELL}'>{escape(_text(value))}</td></tr>"
            for name, value in fields.items()
            if value not in (None, [], {}, "")
        ]
        return f"<table>{''.join(rows)}</table>"


def _text(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"
