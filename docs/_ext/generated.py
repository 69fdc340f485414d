"""Pages that are made from what they describe: the HTTP API from openapi.json, settings from their class."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

from service.settings import Settings

ROOT = Path(__file__).parent.parent.parent
FOLDER = ROOT / "docs" / "generated"
METHODS = ("get", "head", "put", "post", "patch", "delete")


def setup(app: Sphinx) -> dict[str, bool]:
    """Before anything is read; after the build the sources are as they were."""
    app.connect("builder-inited", write)
    app.connect("build-finished", remove)
    return {"parallel_read_safe": True}


def write(_: Sphinx) -> None:
    """Writes the pages that have changed."""
    FOLDER.mkdir(exist_ok=True)
    document = json.loads((ROOT / "openapi.json").read_text())
    for name, lines in (("http-api", http_api(document)), ("settings", settings())):
        page, text = FOLDER / f"{name}.md", "\n".join(lines) + "\n"
        if not page.exists() or page.read_text() != text:
            page.write_text(text)


def remove(_: Sphinx, __: Exception | None) -> None:
    """Takes the pages away again."""
    shutil.rmtree(FOLDER, ignore_errors=True)


def http_api(document: dict[str, Any]) -> Iterator[str]:
    """Every address, by resource: parameters, body, answers and problems; then every schema."""
    yield "# HTTP API reference"
    yield ""
    yield (
        "Made from `openapi.json`, version "
        + document["info"]["version"]
        + ". A running service shows the same with "
        "worked examples at `/docs`. Errors are problem documents (RFC 9457); `type` is stable, `detail` says what "
        "to do, and `errors` names each wrong field by a JSON pointer."
    )
    by_tag: dict[str, list[tuple[str, str, dict[str, Any]]]] = {}
    for path, operations in document["paths"].items():
        for method in METHODS:
            if method in operations:
                operation = operations[method]
                tag = (operation.get("tags") or ["Other"])[0]
                by_tag.setdefault(tag, []).append((method.upper(), path, operation))
    for tag, operations in by_tag.items():
        yield from ("", f"## {tag}")
        for method, path, operation in operations:
            yield from _operation(method, path, operation)
    yield from ("", "## Schemas", "")
    yield "The same classes are in Python's `upweight.schema`."
    for name, schema in sorted(document["components"]["schemas"].items()):
        yield from _schema(name, schema)


def _operation(method: str, path: str, operation: dict[str, Any]) -> Iterator[str]:
    yield from ("", f"### {method} {_plain(path)}", "")
    yield _plain(operation.get("description") or operation.get("summary", ""))
    parameters = operation.get("parameters", [])
    if parameters:
        yield from ("", "| parameter | in | type | what it is |", "| --- | --- | --- | --- |")
        for each in parameters:
            must = " (required)" if each.get("required") and each["in"] != "path" else ""
            words = each.get("description", "")
            yield f"| `{each['name']}`{must} | {each['in']} | {_type(each['schema'])} | {_cell(words)} |"
    body = operation.get("requestBody", {}).get("content", {})
    for media, content in body.items():
        yield from ("", f"Body, `{media}`: {_type(content.get('schema', {}))}.")
    yield from ("", "| answer | body | meaning |", "| --- | --- | --- |")
    for status, answer in sorted(operation.get("responses", {}).items()):
        content = answer.get("content", {})
        bodies = ", ".join(
            f"`{media}`" + (f" {_type(each['schema'])}" if each.get("schema") else "")
            for media, each in content.items()
            if media != "application/problem+json"
        )
        yield f"| {status} | {bodies or ('problem' if content else '')} | {_cell(answer['description'])} |"


def _schema(name: str, schema: dict[str, Any]) -> Iterator[str]:
    yield from ("", f"### {name}", "")
    if schema.get("description"):
        yield from (_plain(schema["description"]), "")
    if "enum" in schema:
        yield "One of " + ", ".join(f"`{each}`" for each in schema["enum"]) + "."
        return
    properties = schema.get("properties", {})
    if not properties:
        yield _type(schema) + "."
        return
    required = set(schema.get("required", ()))
    yield from ("| field | type | default | what it is |", "| --- | --- | --- | --- |")
    for field, each in properties.items():
        default = "required" if field in required else _default(each)
        yield f"| `{field}` | {_type(each)} | {default} | {_cell(each.get('description', ''))} |"


def _default(schema: dict[str, Any]) -> str:
    return f"`{json.dumps(schema['default'])}`" if "default" in schema else ""


def _type(schema: dict[str, Any]) -> str:
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    for union in ("anyOf", "oneOf"):
        if union in schema:
            return " or ".join(dict.fromkeys(_type(each) for each in schema[union]))
    if "const" in schema:
        return f"`{json.dumps(schema['const'])}`"
    if "enum" in schema:
        return ", ".join(f"`{each}`" for each in schema["enum"])
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    kind = str(schema.get("type", "anything"))
    return f"{kind} ({schema['format']})" if "format" in schema else kind


def settings() -> Iterator[str]:
    """A row a setting."""
    yield "# Settings"
    yield ""
    yield (
        "Each is an environment variable of front ends and workers; `REDIS_URL` is read, too. Give all processes of "
        "one service the same. Made from `service/settings.py`."
    )
    yield from ("", "| variable | default | what it is |", "| --- | --- | --- |")
    for name, field in Settings.model_fields.items():
        default = field.default
        shown = "" if default is None else f"`{default}`" if str(default) else ""
        words = field.description or ""
        yield f"| `UPWEIGHT_{name.upper()}` | {_cell(shown)} | {_cell(words)} |"


def _cell(text: str) -> str:
    return _plain(" ".join(text.split())).replace("|", "\\|")


def _plain(text: str) -> str:
    """Markdown takes <, *, [ and { of prose for its own; what is in backquotes it leaves alone."""
    parts = text.split("`")
    for number in range(0, len(parts), 2):
        for sign in "<*[{_":
            parts[number] = parts[number].replace(sign, f"\\{sign}")
    return "`".join(parts)
