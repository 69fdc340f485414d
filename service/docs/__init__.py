"""The API's pages: Swagger UI with every file served from here, so it works without internet."""

from service.docs.page import docs_routes

__all__ = ["docs_routes"]
