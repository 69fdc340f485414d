"""JSON members of an archive as checked objects."""

from typing import TypeVar

from pydantic import ValidationError

from workers.programs.errors import TORCH, GraphInvalid
from workers.programs.schema import Strict

Document = TypeVar("Document", bound=Strict)


def parse(kind: type[Document], content: bytes | bytearray, member: str) -> Document:
    """The member's JSON as `kind`; the first thing that is wrong goes into the error."""
    try:
        return kind.model_validate_json(content)
    except ValidationError as exc:
        first = exc.errors(include_url=False, include_context=False, include_input=False)[0]
        where = "/".join(str(part) for part in first["loc"])[:300]
        raise GraphInvalid(
            f"{member}: {first['msg']} at {where or 'the top'}. Export again with {TORCH}"
        ) from exc
