"""Values of options as they are typed: pairs, JSON, names with commas between them."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

Labels = Annotated[
    list[str] | None, typer.Option("--label", help="KEY=VALUE; may be given several times.")
]
Limit = Annotated[int, typer.Option(help="So many at most; 0 means all.", min=0)]
Oldest = Annotated[bool, typer.Option("--oldest-first", help="Oldest first.")]
Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="Wait for the worker's check.")]
Timeout = Annotated[float | None, typer.Option(help="Seconds to wait at most.", min=0)]


def pairs(texts: Iterable[str] | None, option: str) -> dict[str, str]:
    """`KEY=VALUE`, several."""
    found = {}
    for text in texts or ():
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise typer.BadParameter(f"{text!r} must be KEY=VALUE", param_hint=option)
        found[key] = value
    return found


def values(texts: Iterable[str] | None, option: str) -> dict[str, Any]:
    """`KEY=VALUE` with values in JSON, or words."""
    return {key: value(text) for key, text in pairs(texts, option).items()}


def filters(texts: Iterable[str] | None, option: str) -> dict[str, list[Any]]:
    """`COLUMN=VALUE`, several of one column too."""
    found: dict[str, list[Any]] = {}
    for text in texts or ():
        for column, given in pairs([text], option).items():
            found.setdefault(column, []).append(value(given))
    return found


def value(text: str) -> Any:
    """A number, a truth value, an object; what is no JSON is a word."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def damping(text: str | None) -> Any:
    """λ: `0.05`, `auto`, `relative:0.1`, several of these with commas between them, or JSON."""
    if text is None:
        return None
    if text.lstrip().startswith(("{", "[")):
        return value(text)
    parts = [part.strip() for part in text.split(",")]
    found = [_part(part) for part in parts]
    return found if len(found) > 1 else found[0]


def curvature(text: str | None) -> Any:
    """`fisher`, `fisher:full`, or JSON."""
    if text is None or text.lstrip().startswith("{"):
        return None if text is None else value(text)
    kind, colon, structure = text.partition(":")
    return {"kind": kind, **({"structure": structure} if colon else {})}


def measurement(text: str | None) -> Any:
    """`margin`, `logit:3`, `logit:predicted`, `span:4:9`, `span:4:9:12:15` (less the second), or JSON."""
    if text is None or text.lstrip().startswith("{"):
        return None if text is None else value(text)
    name, colon, which = text.partition(":")
    if name == "span":
        bounds = [value(each) for each in which.split(":")]
        if len(bounds) not in (2, 4):
            words = f"{text!r} has not two bounds, or four; write span:START:END or span:START:END:START:END"
            raise typer.BadParameter(words, param_hint="--measurement")
        spans = [{"start": a, "end": b} for a, b in zip(bounds[::2], bounds[1::2], strict=True)]
        return {"name": name, **spans[0], **({"minus": spans[1]} if len(spans) > 1 else {})}
    return {"name": name, **({"class": value(which)} if colon else {})}


def _part(text: str) -> Any:
    name, colon, number = text.partition(":")
    return {"relative": value(number)} if colon and name == "relative" else value(text)


def rows(text: str | None) -> str | list[str] | None:
    """Rows as they are typed, `3,5,100:200`, or the ids that a file of that name holds, one a word."""
    if text is None or not Path(text).is_file():
        return text
    return Path(text).read_text(encoding="utf-8").replace(",", " ").split()


def whole_numbers(words: Iterable[str], option: str) -> list[int]:
    """Numbers as they are typed."""
    try:
        return [int(word) for word in words]
    except ValueError as error:
        raise typer.BadParameter(f"whole numbers are needed: {error}", param_hint=option) from None


def names(text: str | None) -> list[str] | None:
    """`a,b`; None stays None, and nothing means no names."""
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]


def document(source: str | None, option: str) -> Any:
    """JSON from a file, from stdin (`-`), or as typed when it begins with a brace."""
    if source is None:
        return None
    if source.lstrip().startswith(("{", "[")):
        text, named = source, option
    elif source == "-":
        text, named = sys.stdin.read(), "stdin"
    elif option.startswith("--") and not Path(source).is_file():
        words = f"{source!r} is no JSON, such as '{{…}}', and no file of it"
        raise typer.BadParameter(words, param_hint=option)
    else:
        text, named = Path(source).read_text(encoding="utf-8"), source
    try:
        return json.loads(text)
    except ValueError as error:
        raise typer.BadParameter(f"{named} is no JSON: {error}", param_hint=option) from None


def existing(paths: Sequence[str]) -> list[Path]:
    """Files that are there."""
    found = [Path(path) for path in paths]
    for path in found:
        if not path.is_file():
            raise typer.BadParameter(f"there is no file {str(path)!r}")
    return found
