"""`/`, and the files behind it."""

from __future__ import annotations

from html import escape
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response
from fastapi.staticfiles import StaticFiles

FOLDER = Path(__file__).parent
FILES = FOLDER / "static"

POLICY = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        # No text becomes markup: assigning a string to innerHTML is an error in browsers that know this.
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    ]
)


def explorer_routes(app: FastAPI) -> None:
    """Add `/`: the page to browsers, the other addresses to programs."""
    page = (FOLDER / "index.html").read_text()
    modules = sorted(file.relative_to(FILES).as_posix() for file in FILES.rglob("*.js"))

    @app.api_route("/", methods=["GET", "HEAD"], include_in_schema=False)
    def explorer(request: Request) -> Response:
        root = escape(str(request.scope.get("root_path", "")).rstrip("/"))
        headers = {
            "Link": f'<{root}{app.openapi_url}>; rel="service-desc", <{root}/docs>; rel="service-doc"',
            "Vary": "Accept",
        }
        if "text/html" not in request.headers.get("accept", "*/*").replace("*/*", "text/html"):
            found = {
                "explorer": f"{root}/",
                "docs": f"{root}/docs",
                "openapi": f"{root}{app.openapi_url}",
            }
            return JSONResponse(found, headers=headers)
        # All at once: modules name each other, and would be asked for one after the other.
        preloads = "\n".join(
            f'<link rel="modulepreload" href="{root}/explorer/{module}">' for module in modules
        )
        html = page.replace("{root}", root).replace("{preloads}", preloads)
        headers |= {
            "Content-Security-Policy": POLICY,
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
        }
        return HTMLResponse(html, headers=headers)

    app.mount("/explorer", StaticFiles(directory=FILES), name="explorer")
