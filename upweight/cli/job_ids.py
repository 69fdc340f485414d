"""Jobs as people name them: `latest`, or a part of an id that no other job's has."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from upweight import Client

LATEST = "latest"
ID_LENGTH = len("job_") + 26
SHORTEST = 4  # characters of a part; fewer are a slip of the hand
SHOWN = 5


def job_id(client: Client, text: str) -> str:
    """The whole id; what stands for no job is left to the service, which says so. Raises BadParameter for several."""
    if text == LATEST:
        newest = next(iter(client.jobs.list(limit=1)), None)
        if newest is None:
            raise typer.BadParameter("there is no latest job: there are none", param_hint="JOB")
        return newest.id
    part = text.removeprefix("job_").upper()
    if len(text) >= ID_LENGTH or len(part) < SHORTEST:
        return text
    # Ids begin with the time, so that those of one afternoon differ at their ends.
    found = [each.id for each in client.jobs.list() if _has(each.id, part)]
    if len(found) > 1:
        more = ", …" if len(found) > SHOWN else ""
        raise typer.BadParameter(
            f"{text!r} stands for {len(found)} jobs: {', '.join(found[:SHOWN])}{more}; give more of it",
            param_hint="JOB",
        )
    return found[0] if found else text


def _has(id: str, part: str) -> bool:
    own = id.removeprefix("job_")
    return own.startswith(part) or own.endswith(part)
