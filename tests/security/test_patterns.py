"""Every pattern that a text of a stranger must match, matches the whole of it: no line break slips in at the end."""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from service.storage.keys import is_id
from upweight.schema.base import Digest, Labels, Name, Reference, Text
from upweight.schema.rows import RowSelection

ROOT = Path(__file__).parents[2]
quick = settings(
    max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), database=None
)
ENDINGS = ("\n", "\r\n", "\r", "\x00", "\x0b", "\x1f", "\x7f", "\n\n")
WORDS = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,40}", fullmatch=True)
HEX = st.from_regex(r"sha256:[0-9a-f]{64}", fullmatch=True)

labels = TypeAdapter(Labels)
TAKES: dict[str, tuple[st.SearchStrategy[str], Callable[[str], object]]] = {
    "name": (WORDS, TypeAdapter(Name).validate_python),
    "reference": (WORDS.map("{}@3".format), TypeAdapter(Reference).validate_python),
    "digest": (HEX, TypeAdapter(Digest).validate_python),
    "text": (st.from_regex(r"[ -~]{1,60}", fullmatch=True), TypeAdapter(Text).validate_python),
    "label key": (WORDS, lambda key: labels.validate_python({key: "value"})),
    "label value": (WORDS, lambda value: labels.validate_python({"key": value})),
    "rows": (st.just("3"), TypeAdapter(RowSelection).validate_python),
}


@pytest.mark.parametrize("what", TAKES)
@quick
@given(data=st.data(), ending=st.sampled_from(ENDINGS))
def test_control_characters_at_the_end_are_refused(
    what: str, data: st.DataObject, ending: str
) -> None:
    texts, take = TAKES[what]
    text = data.draw(texts)
    take(text)
    if what == "rows" and ending.isspace():
        return  # blanks around rows are no part of them
    with pytest.raises(ValidationError):
        take(text + ending)


def test_an_id_with_a_line_break_is_none() -> None:
    id = "mdl_01ARZ3NDEKTSV4RRFFQ69G5FAV"
    assert is_id("model", id)
    assert not is_id("model", f"{id}\n")


def test_no_pattern_is_matched_from_its_beginning_alone() -> None:
    """`match` with `$` at the end takes a line break there; `fullmatch` doesn't."""
    allowed = {"workers/programs/expressions.py"}  # token by token
    found = []
    for package in ("upweight", "service", "workers"):
        for path in sorted((ROOT / package).rglob("*.py")):
            found += [
                str(path.relative_to(ROOT))
                for node in ast.walk(ast.parse(path.read_text()))
                if isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr == "match"
                and "path_regex" not in ast.unparse(node.func)
            ]
    assert set(found) <= allowed
