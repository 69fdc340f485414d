"""`/docs`, and the files behind it.

Give the application `docs_url=None, redoc_url=None`: FastAPI's own pages load their scripts from elsewhere.
"""

from __future__ import annotations

from html import escape
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, RedirectResponse
from fastapi.staticfiles import StaticFiles

FILES = Path(__file__).with_name("static")

POLICY = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",  # its icons are in its style sheet
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ]
)

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<link rel="stylesheet" href="{files}/swagger-ui.css">
<link rel="icon" type="image/png" sizes="32x32" href="{files}/favicon-32x32.png">
</head>
<body>
<div id="swagger-ui" data-openapi="{openapi}"></div>
<noscript>This page needs JavaScript; the document behind it is at <a href="{openapi}">{openapi}</a>.</noscript>
<script src="{files}/swagger-ui-bundle.js"></script>
<script src="{files}/examples.js"></script>
<script src="{files}/start.js"></script>
</body>
</html>
"""


def docs_routes(app: FastAPI) -> None:
    """Add `/docs`; `/redoc`, where we have no page, leads there."""

    @app.api_route("/docs", methods=["GET", "HEAD"], include_in_schema=False)
    def docs(request: Request) -> HTMLResponse:
        root = str(request.scope.get("root_path", "")).rstrip("/")
        page = PAGE.format(
            title=escape(app.title),
            files=escape(f"{root}/docs/static"),
            openapi=escape(f"{root}{app.openapi_url}"),
        )
        headers = {
            "Content-Security-Policy": POLICY,
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
        }
        return HTMLResponse(page, headers=headers)

    @app.get("/redoc", include_in_schema=False)
    def redirect(request: Request) -> RedirectResponse:
        root = str(request.scope.get("root_path", "")).rstrip("/")
        return RedirectResponse(f"{root}/docs")

    app.mount("/docs/static", StaticFiles(directory=FILES), name="docs-static")
