"""What a caller may do."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import Field

from upweight.schema.base import Answer


class Access(Answer):
    """Whose request it was, as the service sees it."""

    namespace: str
    role: Literal["read", "write", "admin"]
    key_id: str | None = Field(None, description="Null where no key is needed.")
    version: str = Field(description="Of the front end.")
    time: datetime = Field(description="The front end's clock.")
    model_types: list[str] | None = Field(
        None,
        description="Types of Hugging Face models that are built from their config here; null of a front end that does "
        "not say. Live models of others are exported.",
    )
