"""HTTP for banks of retrained weights."""

from __future__ import annotations

import json
import re
from typing import Annotated

from fastapi import APIRouter, Path

from service.dependencies import PartsNow, Reader, Writer
from service.parts import Parts
from service.problems import EVERYWHERE, documented
from service.storage.layout import bank_folder, banks_folder
from upweight.errors import NotFound
from upweight.schema import Bank, Banks

DESCRIPTION = "bank.json"
_ID = re.compile(r"[0-9a-f]{64}")

router = APIRouter(prefix="/v1/banks", tags=["Jobs"], responses=documented(*EVERYWHERE))
BankId = Annotated[str, Path(description="As the list has it.", max_length=64)]


@router.get("", summary="List the banks of retrained weights")
def listing(parts: PartsNow, caller: Reader) -> Banks:
    """Weights that jobs have retrained on subsets of rows: kept for later jobs until they are deleted."""
    found: dict[str, list[int]] = {}
    folder = banks_folder(caller.namespace)
    for meta in parts.objects.walk(folder):
        id, _, name = meta.path.removeprefix(f"{folder}/").partition("/")
        count = found.setdefault(id, [0, 0])
        count[0] += name != DESCRIPTION
        count[1] += meta.size
    items = [_bank(parts, caller.namespace, id, *count) for id, count in sorted(found.items())]
    return Banks(items=[each for each in items if each is not None])


@router.delete("/{id}", status_code=204, responses=documented(NotFound), summary="Delete a bank")
def delete(id: BankId, parts: PartsNow, caller: Writer) -> None:
    """Deletes the weights of a bank. A job that needs them again trains them again."""
    folder = bank_folder(caller.namespace, id)
    if not _ID.fullmatch(id) or next(parts.objects.walk(folder), None) is None:
        raise NotFound(f"there is no bank {id[:64]!r} here; GET /v1/banks lists what there is")
    parts.objects.delete_prefix(folder)
    parts.quota.measure_again(caller.namespace)


def _bank(parts: Parts, namespace: str, id: str, count: int, size: int) -> Bank | None:
    try:
        described = json.loads(parts.objects.get(f"{bank_folder(namespace, id)}/{DESCRIPTION}"))
    except FileNotFoundError:  # deleted meanwhile
        return None
    return Bank(id=id, subsets=count, size_bytes=size, **described)
