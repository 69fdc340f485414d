"""The OpenAPI document; `python -m service.describe` prints it."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from service.docs.examples import add_examples
from upweight.schema import Problem

DESCRIPTION = """
Which training examples helped or hurt a model, computed by influence functions.

Upload blobs, register a model and datasets, start a job, read its result by slices. Positive influence means helpful.
Every failure is a problem document (RFC 9457) whose `detail` says what to do. A field or query parameter that is not
known is refused, never passed over, but by the three routes of health.
""".strip()


def document(app: FastAPI) -> dict[str, Any]:
    """The document of an application, made once."""
    if app.openapi_schema is None:
        made = get_openapi(
            title=app.title,
            version=app.version,
            summary=app.summary,
            description=app.description,
            routes=app.routes,
            webhooks=app.webhooks.routes,
        )
        schemas = made.setdefault("components", {}).setdefault("schemas", {})
        described = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas |= described.pop("$defs", {})
        schemas["Problem"] = described
        add_examples(made)
        app.openapi_schema = made
    return app.openapi_schema
