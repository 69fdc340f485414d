"""The clients: `Client` blocks, `AsyncClient` is awaited; they have the same methods."""

from upweight.client.blocking import Client
from upweight.client.coroutines import AsyncClient

__all__ = ["AsyncClient", "Client"]
