"""Docstrings here are plain words, `names` in backquotes; reStructuredText wants two, and reads |x| and *x its way."""

from __future__ import annotations

import re
from typing import Any

from sphinx.application import Sphinx


def setup(app: Sphinx) -> dict[str, bool]:
    """Before autodoc hands them on."""
    app.connect("autodoc-process-docstring", _process)
    return {"parallel_read_safe": True}


def _process(
    _app: Any, _what: str, _name: str, _object: Any, _options: Any, lines: list[str]
) -> None:
    lines[:] = [
        re.sub(r"(?<!`)`([^`]+)`(?!`)", r"``\1``", line) if "`" in line else _escaped(line)
        for line in lines
    ]


def _escaped(line: str) -> str:
    return re.sub(r"([*|])", r"\\\1", line)
