"""The explorer: the page for people who would rather look than read. No build step, nothing from elsewhere."""

from service.explorer.page import explorer_routes

__all__ = ["explorer_routes"]
