"""HTTP for what a key is good for."""

from __future__ import annotations

from datetime import UTC, datetime

from fastapi import APIRouter

from service.dependencies import PartsNow, Reader
from service.problems import documented
from upweight import __version__
from upweight.errors import Forbidden, InternalError, Unauthorized, Unavailable
from upweight.schema import Access

router = APIRouter(
    prefix="/v1/access",
    tags=["Access"],
    responses=documented(Unauthorized, Forbidden, InternalError, Unavailable),
)


@router.get("", summary="Show what a key may do")
def access(caller: Reader, parts: PartsNow) -> Access:
    """The namespace and role of the key that was sent; never the key."""
    return Access(
        namespace=caller.namespace,
        role=caller.role.value,
        key_id=caller.key_id,
        version=__version__,
        time=datetime.now(UTC),
        model_types=sorted(parts.settings.huggingface),
    )
