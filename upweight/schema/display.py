"""Records at a prompt: a line; in notebooks: a table of the fields that say something. Everything is escaped."""

from __future__ import annotations

import json
from html import escape

from upweight.schema.base import Answer

LONGEST = 200  # characters of one value
_HEADS = ("name", "format", "method", "kind")  # what an object is called by
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
    text = _words(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


def _words(value: object) -> str:
    """`x (n, 64) float32, …` for columns and parameters; `cross_entropy (class_axis 1, …)` for what has a name."""
    if isinstance(value, list):
        return ", ".join(map(_words, value))
    if not isinstance(value, dict):
        return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    rest = {key: each for key, each in value.items() if each not in (None, [], {}, "")}
    parts = [str(rest.pop(key)) for key in _HEADS if isinstance(rest.get(key), str)][:1]
    shape = rest.pop("shape", None)
    if isinstance(shape, list):
        sizes = ("n" if size is None else str(size) for size in shape)
        parts += [f"({', '.join(sizes)})", *([rest.pop("dtype")] if "dtype" in rest else [])]
    more = ", ".join(f"{key} {_words(each)}" for key, each in rest.items())
    return " ".join([*parts, f"({more})"]) if parts and more else "".join(more) or " ".join(parts)
