"""What checks of models came to, under the digest of all that went into them: the same model is not checked again.

A report is a function of the program's bytes, what is asked of them, the operator's settings and the code that checks;
time, memory and crashes are not, so such ends are not kept. Each namespace has reports of its own: how soon an answer
comes would tell whether another one has the same model.
"""

from __future__ import annotations

import hashlib
import json
import platform
import zlib
from collections.abc import Callable, Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from redis import Redis

import service
import upweight
import workers
from service.storage.keys import PREFIX
from service.storage.redis import reachable
from service.storage.shared import digest_of
from workers.programs.errors import CheckFailed, ProgramError, from_dict

_SECONDS = 7 * 86_400
_BYTES = 1 << 20  # a larger report, compressed, is not kept


class KeptReports:
    """The reports in Redis, for a week after they were last asked for."""

    def __init__(self, redis: Redis) -> None:
        self._redis: Any = redis

    def report(
        self, namespace: str, question: Mapping[str, Any], check: Callable[[], dict[str, Any]]
    ) -> dict[str, Any]:
        """The kept report of a check that `question` describes in full, as JSON, or what `check` gives now.

        Raises ProgramError as the check does, or did.
        """
        key = f"{PREFIX}:checked:{namespace}:{digest_of([question, _versions()])}"
        with reachable():
            kept = self._redis.getex(key, ex=_SECONDS)
        if kept is not None:
            outcome = json.loads(zlib.decompress(kept))
            if "problem" in outcome:
                raise from_dict(outcome["problem"])
            report: dict[str, Any] = outcome["report"]
            return report
        try:
            report = check()
        except CheckFailed:
            raise
        except ProgramError as error:
            self._keep(key, {"problem": error.as_dict()})
            raise
        self._keep(key, {"report": report})
        return report

    def _keep(self, key: str, outcome: Mapping[str, Any]) -> None:
        packed = zlib.compress(json.dumps(outcome).encode())
        if len(packed) <= _BYTES:
            with reachable():
                self._redis.set(key, packed, ex=_SECONDS)


@cache
def _versions() -> dict[str, str]:
    """Of all code that a check runs. Ours by its text too: a version may be in the making."""
    text = hashlib.sha256()
    for package in (upweight, service, workers):
        assert package.__file__ is not None
        for path in sorted(Path(package.__file__).parent.rglob("*.py")):
            text.update(path.read_bytes())
    return {
        "torch": torch.__version__,
        "transformers": _version("transformers"),
        "upweight": upweight.__version__,
        "text": text.hexdigest(),
        "python": platform.python_version(),
        "machine": platform.machine(),
    }


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""
