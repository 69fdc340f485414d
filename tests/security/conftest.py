"""A front end in a thread, as the service's own tests have it."""

from tests.service.conftest import acting, client, front, ready

__all__ = ["acting", "client", "front", "ready"]
